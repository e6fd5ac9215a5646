"""Plans: topologies by name, bounds of a roofline, recipes as shapes, and whole compiled steps."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxformers.cli import main
from jaxformers.core.errors import ConfigError
from jaxformers.core.mesh import abstract_mesh
from jaxformers.core.sharding import PRESETS
from jaxformers.planning.compiled import memory_of, plan, step_flops
from jaxformers.planning.hlo import Collective
from jaxformers.planning.roofline import by_kind, split
from jaxformers.planning.topology import Topology
from jaxformers.training.recipe import Recipe

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.toml"))
SMALL = """
[model]
task = "CausalLM"
[model.config]
model_type = "llama"
vocab_size = 1024
hidden_size = 256
intermediate_size = 512
num_hidden_layers = 4
num_attention_heads = 2
num_key_value_heads = 2
[data]
train = "synthetic"
length = 256
[mesh]
fsdp = 2
tensor = 2
rules = "FSDP_TENSOR"
[training]
per_device_train_batch_size = 4
max_steps = 10
bf16 = true
gradient_checkpointing = true
"""


def test_topologies() -> None:
    pod = Topology.parse("2*v5e:16x16")
    assert (pod.size, pod.neighbours, str(pod), pod.is_gpu) == (512, 256, "2*v5e:16x16", False)
    gpus = Topology.parse("h100:8x4")
    assert (gpus.size, gpus.neighbours, gpus.is_gpu) == (32, 4, True)
    for bad in ("v5e", "v5e:ax2", "v5e:0x2", "v9:2x2", "h100:8", "2*h100:8x8"):
        with pytest.raises(ConfigError, match="expected|give machines"):
            Topology.parse(bad)


def test_what_crosses_the_network() -> None:
    machines = np.repeat([0, 1], 4)  # two machines of four GPUs
    inside = Collective("all-gather", 100.0, 2, (0, 1, 2, 3), 1)
    across = Collective("all-reduce", 10.0, 1, (0, 4), 1)
    both = Collective("all-gather", 80.0, 1, tuple(range(8)), 1)
    assert split([inside, across, both], machines) == (280.0, 10.0 + 80.0 * 2 / 8)
    gathers = by_kind([inside, across, both], machines)["all-gather"]
    assert (gathers.runs, gathers.bytes, gathers.network) == (3, 280.0, 20.0)


def test_shapes_of_a_plan(tmp_path: Path) -> None:
    """Memory between steps and FLOPs follow from the shapes: two moments, everything cut by four where it can be."""
    path = tmp_path / "run.toml"
    path.write_text(SMALL)
    planned = plan(Recipe.read(path), Topology.parse("v5e:2x2").mesh({"fsdp": 2, "tensor": 2}), PRESETS["FSDP_TENSOR"])
    parameters = 2 * 1024 * 256 + 4 * (4 * 256 * 256 + 3 * 256 * 512) + 9 * 256
    assert (planned.rows, planned.tokens) == (8, 2048)
    memory = memory_of(planned)
    assert 0.25 <= memory.parameters / (4 * parameters) < 0.27
    assert memory.optimizer == pytest.approx(2 * memory.parameters, rel=0.01)
    matrices = parameters - 9 * 256 - 1024 * 256
    attention = 4 * 2 * 2 * 256 * 256  # scores and values of each layer, for each token and width
    assert step_flops(planned) == pytest.approx(3 * 2048 * (2 * matrices + attention), rel=0.01)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_recipes_are_plans(path: Path) -> None:
    """Every recipe is understood, and its lasting state fits the topology that its first lines name."""
    topology = Topology.parse(re.search(r"--topology (\S+)", path.read_text()).group(1))  # type: ignore[union-attr]
    recipe = Recipe.read(path)
    axes = {k: v for k, v in recipe.mesh.items() if k != "rules"}
    assert np.prod(list(axes.values())) == topology.size
    planned = plan(recipe, abstract_mesh(axes), PRESETS[recipe.mesh["rules"]])  # type: ignore[arg-type]
    memory = memory_of(planned)
    assert memory.parameters + memory.optimizer < 0.7 * topology.chip.memory
    assert "tiny" in tomllib.loads(path.read_text())


def figures(capsys: pytest.CaptureFixture, *arguments: Any) -> tuple[int, dict[str, Any]]:
    """The command's status and figures."""
    status = main(["plan", *map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_plan_by_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "run.toml"
    path.write_text(SMALL)
    status, found = figures(capsys, path, "--topology", "v5e:2x2")
    assert status == 0 and found["fits"] and not found["advice"]
    assert {"all-gather", "all-reduce"} <= found["collectives"].keys()
    # Each layer's weights are gathered for the forward pass and again for the gradients.
    assert found["collectives"]["all-gather"]["runs"] >= 8
    assert found["kernels"] > 0 and not any(one["network"] for one in found["collectives"].values())
    assert 0 < found["mfu"]["serial"] <= found["mfu"]["overlapped"] <= 0.75
    assert main(["plan", str(path), "--topology", "v5e:2x2"]) == 0
    assert "It fits" in capsys.readouterr().out


@pytest.mark.slow
def test_a_plan_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "run.toml"
    path.write_text(SMALL.replace("vocab_size = 1024", "vocab_size = 1024000").replace("256", "8192"))
    status, found = figures(capsys, path, "--topology", "v5e:2x2")
    assert status == 1 and not found["fits"]
    assert "cut them over more devices" in found["advice"][0]
