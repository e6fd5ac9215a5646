"""Imports go down the floors only, and every module keeps the house rules that a machine can check."""

import ast
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "jaxformers"
KERNELS = ROOT / "kernels"

FLOORS = {
    "kernels": 0,
    "core": 1,
    "ops": 2,
    "processing": 2,
    "nn": 3,
    "models": 4,
    "heads": 4,
    "hub": 5,
    "generation": 6,
    "training": 6,
    "adapters": 6,
    "quantization": 6,
    "export": 6,
    "cli": 7,
    "commands": 7,
    "pipelines": 7,
    "planning": 7,
    "demos": 7,
    "serving": 7,
    "": 8,  # jaxformers/__init__.py, the lazy face
}
# Neighbours that may see each other: (who imports, what).
ALLOWED = {
    ("cli", "commands"),
    ("commands", "pipelines"),
    ("commands", "planning"),
    ("commands", "demos"),
    ("demos", "pipelines"),
    ("commands", "serving"),
    ("serving", "pipelines"),
    ("cli", ""),  # for the version
    ("commands", ""),
    ("training", "adapters"),  # what a Trainer saves of a model with adapters
}
# Only these may name another framework, and only inside functions.
FOREIGN = {"torch", "transformers", "tensorflow", "sentence_transformers"}
FOREIGN_ALLOWED = ("jaxformers/commands/parity.py", "jaxformers/export/")
JAX_ALLOWED = {"jaxformers/processing/batch.py"}  # return_tensors="jax" hands over jax arrays
LIMITS = {"jaxformers": 300, "kernels": 600}

FILES = sorted([*LIBRARY.rglob("*.py"), *KERNELS.rglob("*.py")])


def module_name(path: Path) -> str:
    """The dotted name under which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("jaxformers", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, functions and type-checking blocks included, as absolute names."""
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [base])])
            # `from jaxformers import hub` names a folder, `from jaxformers import Model` the lazy face.
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "jaxformers" else {base}
    return found


def folder(module: str) -> str:
    """The part of the library that a module name belongs to; '' is the lazy face."""
    part = [*module.split("."), ""][1]
    return part if part in FLOORS else ""


def broken_rules(path: Path) -> list[str]:
    """Every import of one file that the floors forbid."""
    here = folder(module_name(path))
    where = str(path.relative_to(ROOT))
    problems = []
    for target in imports(path):
        top = target.split(".")[0]
        if top == "kernels":
            problems.append(f"{where} imports {target}: say jaxformers.kernels")
        if top in FOREIGN and not where.startswith(FOREIGN_ALLOWED):
            problems.append(f"{where} imports {target}: the library runs without it")
        if here == "processing" and top in {"jax", "jaxlib", "flax"} and where not in JAX_ALLOWED:
            problems.append(f"{where} imports {target}: processing is numpy in, numpy out")
        if here == "kernels" and top in {"flax", "optax", "orbax", "einops"}:
            problems.append(f"{where} imports {target}: kernels know jax only")
        if top != "jaxformers" or here == "":
            continue
        there = folder(target)
        up, level = FLOORS[there] > FLOORS[here], FLOORS[there] == FLOORS[here] >= 6
        if there != here and (up or level) and (here, there) not in ALLOWED:
            problems.append(
                f"{where} (floor {FLOORS[here]}) imports {target} (floor {FLOORS[there]}): imports go down only"
            )
    return problems


def test_imports_go_down():
    problems = [problem for path in FILES for problem in broken_rules(path)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("core/new.py", "def f():\n    from jaxformers.hub.model import Model", "imports go down only"),
        ("core/new.py", "from ..nn import linear", "imports go down only"),
        ("core/new.py", "from jaxformers import Model", "imports go down only"),
        ("training/new.py", "import jaxformers.generation.generate", "imports go down only"),
        ("models/text/new.py", "import torch", "runs without it"),
        ("nn/new.py", "import kernels.attention", "say jaxformers.kernels"),
        ("processing/new.py", "import jax", "numpy in, numpy out"),
    ],
)
def test_the_check_sees_bad_imports(tmp_path, monkeypatch, file, source, complaint):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "jaxformers" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert any(complaint in problem for problem in broken_rules(path))


def test_every_folder_has_a_floor():
    names = {p.relative_to(LIBRARY).parts[0].removesuffix(".py") for p in FILES if p.is_relative_to(LIBRARY)}
    assert names - {"__init__"} <= FLOORS.keys(), "a new part of the library needs a floor in tests/test_floors.py"


def test_every_folder_is_a_package():
    """A folder without __init__.py works from a checkout and is missing from the wheel."""
    packages = {"jaxformers", "kernels"}
    packages |= {f"{tree}.{name}" for tree in list(packages) for name in find_packages(str(ROOT / tree))}
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in FILES}
    assert folders == packages & folders, f"no __init__.py in {sorted(folders - packages)}"


def test_kernels_init_is_empty():
    """From a checkout, transformers imports this file as its own optional package `kernels`."""
    assert (KERNELS / "__init__.py").read_text() == ""


def test_modules_are_short_and_say_what_they_are_for():
    problems = []
    for path in FILES:
        text, where = path.read_text(), path.relative_to(ROOT)
        lines, limit = text.count("\n"), LIMITS[where.parts[0]]
        if lines > limit:
            problems.append(f"{where} has {lines} lines, the limit is {limit}: split it by idea")
        if text.strip() and ast.get_docstring(ast.parse(text)) is None:
            problems.append(f"{where} does not begin with a docstring")
    assert not problems, "\n".join(problems)
