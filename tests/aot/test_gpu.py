"""Llama at 8B shape, compiled down to machine code for eight H100 that are not there: it fits, and what it takes.

`make setup` puts the CUDA plugin in a folder of its own, .venv/gpu-aot: on the ordinary path it would greet every
program that does not say JAX_PLATFORMS with a traceback about cuDNN, which compiling does not need.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.aot.llama_8b import record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the CUDA plugin exists for Linux only"),
]

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(sys.prefix) / "gpu-aot"
HBM = 79.0  # GiB of one H100


@cache
def programs() -> dict[str, dict[str, Any]]:
    """{name: figures} of both programs, compiled in one process."""
    assert PLUGIN.is_dir(), f"{PLUGIN} is not there: run make setup"
    flags = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment = {**flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(PLUGIN), str(ROOT)])}
    command = [sys.executable, "-m", "tests.aot.gpu_programs"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return {found["program"]: found for found in map(json.loads, done.stdout.splitlines())}


def test_forward_compiles_and_fits() -> None:
    forward = programs()["forward"]
    assert "H100" in forward["device"]
    found = record("llama 8B forward, bfloat16, 8 x 2048 tokens, 8 H100 as fsdp 4 x tensor 2", forward["memory"])
    # 8.03e9 parameters of 2 bytes over 8 GPUs are 1.87 GiB
    assert 1.85 < found["arguments"] < 1.9
    assert found["arguments"] + found["temporary"] + found["output"] < HBM
    assert {"all-gather", "all-reduce"} <= set(forward["collectives"])


def test_train_step_compiles_and_fits() -> None:
    step = programs()["train step"]
    found = record(
        "llama 8B train step, float32 adamw, bfloat16 compute, full remat, 8 x 2048, 8 H100 fsdp 8", step["memory"]
    )
    # weights and two moments of 4 bytes: 96.4e9 bytes over 8 GPUs are 11.2 GiB, given and taken back in place
    assert 11.1 < found["arguments"] < 11.4
    assert found["aliased"] > 11.1
    assert found["arguments"] + found["temporary"] < HBM
    assert "all-gather" in step["collectives"] and {"reduce-scatter", "all-reduce"} & set(step["collectives"])
