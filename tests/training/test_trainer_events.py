"""The same run calls the same events in the same order as transformers' Trainer, and counts what it counts."""

from pathlib import Path
from typing import Any

import pytest
import transformers

import jaxformers as jf
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.callbacks import TrainerCallback
from jaxformers.training.callbacks.callback import EVENTS
from jaxformers.training.trainer import Trainer
from tests.training import pairs

# Twelve rows in batches of two, three of them an update: two updates an epoch; evaluation takes two batches.
BY_STEPS: dict[str, Any] = dict(
    num_train_epochs=1.5, eval_strategy="steps", eval_steps=2, save_steps=3, logging_steps=2, logging_first_step=True,
    eval_on_start=True, gradient_accumulation_steps=3, per_device_train_batch_size=2, eval_delay=1,
)  # fmt: skip
BY_EPOCHS: dict[str, Any] = dict(
    max_steps=3, eval_strategy="epoch", save_strategy="epoch", logging_strategy="epoch", per_device_train_batch_size=6,
    load_best_model_at_end=True, save_total_limit=1,
)  # fmt: skip


def recorder(base: type) -> Any:
    """A callback of either library that keeps each event with the step, the epoch and what was asked for."""
    found: list[tuple] = []

    def note(event: str) -> Any:
        def called(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            asked = (control.should_log, control.should_evaluate, control.should_save, control.should_training_stop)
            names = sorted(name for name in kwargs.get("logs", {}) if "second" not in name and "runtime" not in name)
            found.append((event, state.global_step, round(state.epoch or 0, 6), asked, names))

        return called

    made = type("Recorder", (base,), {event: note(event) for event in EVENTS})()
    made.found = found
    return made


@pytest.mark.parametrize(
    "arguments", [BY_STEPS, pytest.param(BY_EPOCHS, marks=pytest.mark.slow)], ids=["steps", "epochs"]
)
def test_events(arguments: dict[str, Any], tmp_path: Path) -> None:
    arguments = {**arguments, "per_device_eval_batch_size": 4, "disable_tqdm": True}
    model, train, test = pairs.model("bert", tmp_path / "model"), pairs.rows("bert", 12), pairs.rows("bert", 6, seed=1)
    theirs, ours = recorder(transformers.TrainerCallback), recorder(TrainerCallback)
    their_args = transformers.TrainingArguments(str(tmp_path / "theirs"), use_cpu=True, **arguments)
    other = transformers.Trainer(model, their_args, train_dataset=train, eval_dataset=test, callbacks=[theirs])
    other.train()
    mine = Trainer(
        jf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", scan=True),
        TrainingArguments(
            str(tmp_path / "ours"), **arguments, mesh=None, log_throughput=False, run_summary=False,
            enable_jit_checkpoint=True,
        ),
        train_dataset=train, eval_dataset=test, callbacks=[ours],
    )  # fmt: skip
    mine.train()
    missing = {"eval_model_preparation_time"}
    assert [(*e[:4], [n for n in e[4] if n not in missing]) for e in theirs.found] == ours.found
    for name in ("global_step", "max_steps", "num_train_epochs", "epoch", "logging_steps", "eval_steps", "save_steps"):
        assert getattr(mine.state, name) == pytest.approx(getattr(other.state, name)), name
    folders = [sorted(path.name for path in (tmp_path / side).glob("checkpoint-*")) for side in ("theirs", "ours")]
    assert folders[0] == folders[1] and folders[0]
