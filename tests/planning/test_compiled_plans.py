"""Recipes compiled by `jaxformers plan`: whole ones for the pods they name, tiny forms of the others, and two slices.

[Planning](docs/planning.md) has the table of all recipes, made by benchmarks/plans.py.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxformers.cli import main

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PLAN = [sys.executable, "-m", "jaxformers.cli", "plan"]


def seconds_of_children() -> float:
    """Processor seconds of the programs that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def planned(*arguments: str) -> dict[str, Any]:
    """The figures of a plan made in a process of its own: jax looks for the plugin for GPUs only once."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    begun = seconds_of_children()
    done = subprocess.run([*PLAN, *arguments, "--json"], env=environment, capture_output=True, text=True, timeout=900)
    assert done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout) | {"status": done.returncode, "cpu_s": seconds_of_children() - begun}


@pytest.mark.parametrize(
    ("name", "topology", "parameters", "exchanges"),
    [
        ("llama-8b-v5p", "v5p:8x8x8", 8.03e9, {"all-gather", "all-reduce"}),
        ("llama-70b-h100", "h100:8x8", 70.55e9, {"all-gather", "reduce-scatter"}),
        ("mixtral-8x7b-h100", "h100:8x8", 46.7e9, {"all-gather", "all-to-all"}),
    ],
)
def test_a_whole_recipe(name: str, topology: str, parameters: float, exchanges: set[str]) -> None:
    """It compiles in time, fits, and holds no whole scores: weights and two moments of 4 bytes are all that lasts."""
    found = planned(str(CONFIGS / f"{name}.toml"), "--topology", topology)
    assert found["status"] == 0 and found["fits"], found["advice"]
    memory = found["memory"]
    lasting = (memory["parameters"] + memory["optimizer"]) * found["devices"]
    # Norms lie whole on each of up to 512 devices.
    assert 12 * parameters < lasting < 12.3 * parameters
    assert memory["used"] < 0.7 * memory["there"]
    assert exchanges <= found["collectives"].keys()
    # Over the network go bytes of GPUs in other machines, and of no chip of the same slice.
    assert bool(found["bounds_s"]["network"]) is topology.startswith("h100")
    assert (found["kernels"] > 0) is topology.startswith("v5p")
    assert 0.3 < found["mfu"]["serial"] <= found["mfu"]["overlapped"] <= 0.75
    assert found["cpu_s"] < 90


@pytest.mark.parametrize(
    ("name", "topology"),
    [
        ("llama-1b-v5e", "v5e:2x2"),
        ("mixtral-8x7b-v5p", "v5p:2x2x1"),
        ("bert-mlm-v5e", "v5e:2x2"),
        ("vit-b16-v5e", "v5e:2x2"),
        ("clip-b32-v5e", "v5e:2x2"),
        ("whisper-small-v5e", "v5e:2x2"),
        ("lora-8b-h100", "h100:1x4"),
    ],
)
def test_a_tiny_form(name: str, topology: str, capsys: pytest.CaptureFixture) -> None:
    arguments = [str(CONFIGS / f"{name}.toml"), "--tiny", "--topology", topology]
    if topology.startswith("h100"):
        found = planned(*arguments)
        assert found["status"] == 0
    else:
        assert main(["plan", *arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["devices"] == 4
    assert found["collectives"] and found["memory"]["temporary"] > 0


SLICES = """
[model]
task = "CausalLM"
[model.config]
model_type = "llama"
vocab_size = 512
hidden_size = 256
intermediate_size = 512
num_hidden_layers = 4
num_attention_heads = 2
num_key_value_heads = 2
[data]
train = "synthetic"
length = 256
[mesh]
data = 2
fsdp = 4
dcn = { data = 2 }
rules = "FSDP"
[training]
per_device_train_batch_size = 2
max_steps = 10
bf16 = true
gradient_checkpointing = true
"""


def test_two_slices(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Parameters are gathered inside a slice; gradients alone cross the network, each device its own part."""
    path = tmp_path / "run.toml"
    path.write_text(SLICES)
    assert main(["plan", str(path), "--topology", "2*v5e:2x2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices"] == 8 and found["mesh"] == {"data": 2, "fsdp": 4}
    kinds = found["collectives"]
    assert kinds["all-gather"]["network"] == 0 < kinds["all-gather"]["bytes"]
    crossing = sum(one["network"] for one in kinds.values())
    parameters = 2 * 512 * 256 + 4 * (4 * 256 * 256 + 3 * 256 * 512)
    # Of the two slices' gradients each device sends its quarter once, in 2 or 4 bytes.
    assert 2 * parameters / 4 * 0.9 < crossing < 4 * parameters / 4 * 1.2
    assert found["bounds_s"]["network"] == pytest.approx(crossing / (100e9 / 8 / 8))
    assert main(["plan", str(path), "--topology", "2*v5e:2x2"]) == 0
    assert "over the" in capsys.readouterr().out
