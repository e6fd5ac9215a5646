"""Steps and epochs by transformers' arithmetic."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from jaxformers.core.errors import ConfigError
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.data import DataLoader
from jaxformers.training.step_plan import plan_steps


def theirs(rows: int, batch: int, accumulate: int, epochs: float, max_steps: int) -> tuple[int, int]:
    """transformers' set_initial_training_values: (max_steps, num_train_epochs)."""
    import transformers

    self = SimpleNamespace(
        get_total_train_batch_size=lambda args: batch * accumulate,
        get_sp_size=lambda: 1,
        num_examples=lambda loader: rows,
    )
    args = SimpleNamespace(max_steps=max_steps, num_train_epochs=epochs, gradient_accumulation_steps=accumulate)
    out = transformers.Trainer.set_initial_training_values(self, args, range(math.ceil(rows / batch)))
    return out[6], out[0]


@pytest.mark.parametrize("rows", [1, 7, 12, 40])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize(("epochs", "max_steps"), [(3.0, -1), (0.5, -1), (2.5, -1), (3.0, 11)])
def test_as_transformers(rows: int, accumulate: int, epochs: float, max_steps: int) -> None:
    loader = DataLoader([{"x": 0}] * rows, batch_size=4 * accumulate, last="fill", epochs=None)
    args: Any = TrainingArguments("out", num_train_epochs=epochs, max_steps=max_steps)
    plan = plan_steps(args, loader, accumulate)
    assert (plan.max_steps, plan.num_train_epochs) == theirs(rows, 4, accumulate, epochs, max_steps)
    assert plan.epoch(2, plan.steps_per_epoch or 0) == 3.0


def test_a_stream_needs_max_steps() -> None:
    loader = DataLoader(lambda: iter([{"x": 0}]), batch_size=4)
    with pytest.raises(ConfigError, match="max_steps"):
        plan_steps(TrainingArguments("out"), loader, 1)
    assert plan_steps(TrainingArguments("out", max_steps=10), loader, 2).epoch(0, 5) == 0.5


def test_too_few_rows_to_drop() -> None:
    loader = DataLoader([{"x": 0}] * 3, batch_size=4, last="drop", epochs=None)
    with pytest.raises(ConfigError, match="fewer rows"):
        plan_steps(TrainingArguments("out"), loader, 1)
