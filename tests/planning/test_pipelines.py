"""Plans of recipes whose layers lie in stages."""

from pathlib import Path

import pytest

from jaxformers.core.mesh import abstract_mesh
from jaxformers.core.sharding import PIPELINE, TENSOR
from jaxformers.planning.compiled import memory_of, plan
from jaxformers.training.recipe import Recipe
from tests.planning.test_plans import SMALL, figures

STAGES = SMALL.replace("fsdp = 2", "stage = 2").replace("FSDP_TENSOR", "PIPELINE")


def test_shapes_of_a_plan(tmp_path: Path) -> None:
    """Two stages hold half of what the layers' matrices and moments take; the batch flows in four parts."""
    path = tmp_path / "run.toml"
    path.write_text(STAGES)
    recipe = Recipe.read(path)
    planned = plan(recipe, abstract_mesh(stage=2, tensor=2), PIPELINE)  # type: ignore[arg-type]
    assert planned.pipeline is not None and planned.rows == 8
    assert (planned.pipeline.stages, planned.pipeline.microbatches, planned.pipeline.ticks) == (2, 4, 5)
    whole = plan(recipe, abstract_mesh(tensor=2), TENSOR)  # type: ignore[arg-type]
    assert whole.pipeline is None
    halves, wholes = memory_of(planned), memory_of(whole)
    assert halves.parameters == pytest.approx(wholes.parameters / 2, rel=0.01)
    assert halves.optimizer == pytest.approx(wholes.optimizer / 2, rel=0.01)


@pytest.mark.slow
def test_a_plan_by_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With the flash kernel in its stages; idle ticks and what is computed again count."""
    path = tmp_path / "run.toml"
    path.write_text(STAGES.replace("per_device_train_batch_size = 4", "per_device_train_batch_size = 8"))
    change = ("--set", "training.pipeline_microbatches=8")
    status, found = figures(capsys, path, "--topology", "v5e:2x2", *change)
    assert status == 0 and found["fits"] and found["kernels"] > 0
    assert found["pipeline"] == {"stages": 2, "microbatches": 8, "idle": pytest.approx(1 / 9)}
    # Each of nine ticks hands a hidden state on, and its gradient back.
    assert found["collectives"]["collective-permute"]["runs"] >= 2 * 9
    peak = 4 * 197e12
    assert found["bounds_s"]["compute"] == pytest.approx(found["model_flops"] * 5 / 3 * 9 / 8 / peak, rel=0.01)
