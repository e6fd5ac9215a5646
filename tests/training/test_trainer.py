"""Trainer: resuming to the bit, the best model, limits, what it writes, and running out of memory."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.errors import CheckpointError, ConfigError
from jaxformers.training.callbacks import EarlyStoppingCallback, TrainerCallback
from jaxformers.training.step import TrainStep
from tests.training import small

SAVED = dict(save_strategy="steps", save_steps=3, max_steps=8, lr_scheduler_type="cosine", warmup_steps=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of eight steps with dropout and shuffling, saved at 3, 6 and 8."""
    trainer = small.trainer(tmp_path_factory.mktemp("whole"), small.bert(0.3), **SAVED)
    trainer.train()
    return trainer


class Stops(TrainerCallback):
    """Does something once, after a step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.act(control)


def test_resumed_losses_are_the_same_bits(whole: Any) -> None:
    folder = Path(whole.args.output_dir)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6", "checkpoint-8"]
    again = small.trainer(folder, small.bert(0.3), **SAVED)
    out = again.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert out.global_step == 8 and small.losses(again) == small.losses(whole)
    assert small.same(again.model, whole.model)
    assert again.state.log_history[:3] == whole.state.log_history[:3]


def test_checkpoints_hold_trainer_state(whole: Any) -> None:
    state = json.loads((Path(whole.args.output_dir) / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["global_step"] == 6 and len(state["log_history"]) == 6 and state["epoch"] == 2.0


def test_told_to_end_it_saves_and_goes_on_to_the_same_end(whole: Any, tmp_path: Path) -> None:
    kill = Stops(5, lambda control: os.kill(os.getpid(), signal.SIGTERM))
    first = small.trainer(tmp_path, small.bert(0.3), **{**SAVED, "save_steps": 100}, callbacks=[kill])
    with pytest.raises(SystemExit, match="143"):
        first.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]
    again = small.trainer(tmp_path, small.bert(0.3), **SAVED)
    again.train(resume_from_checkpoint=True)
    assert small.losses(again) == small.losses(whole) and small.same(again.model, whole.model)


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    trainer = small.trainer(tmp_path, **SAVED)
    with pytest.raises(CheckpointError, match="no folder"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        trainer.train(resume_from_checkpoint=True)


SCRIPT = [0.2, 0.5, 0.4, 0.6, 0.3, 0.3, 0.1, 0.1, 0.1]


def scripted() -> Any:
    """compute_metrics that gives one value after another."""
    values = iter(SCRIPT)
    return lambda prediction: {"score": next(values)}


def test_early_stopping_keeps_and_loads_the_best(tmp_path: Path) -> None:
    trainer = small.trainer(
        tmp_path, eval_dataset=small.rows(4), compute_metrics=scripted(), eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, save_total_limit=2, load_best_model_at_end=True, max_steps=9,
        metric_for_best_model="score", callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )  # fmt: skip
    kept: dict[int, Any] = {}
    trainer.add_callback(Keeps(kept))
    out = trainer.train()
    assert out.global_step == 6, "two evaluations without a better score than that of step 4"
    assert trainer.state.best_metric == 0.6 and trainer.state.best_global_step == 4
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert small.same(trainer.model.params, kept[4]) and not small.same(kept[4], kept[6])


class Keeps(TrainerCallback):
    """Copies the parameters after every step."""

    def __init__(self, kept: dict[int, Any]) -> None:
        self.kept = kept

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.kept[state.global_step] = jax.tree.map(np.array, kwargs["model"].params)


def test_saving_the_best_only_as_models(tmp_path: Path) -> None:
    trainer = small.trainer(
        tmp_path, eval_dataset=small.rows(4), compute_metrics=scripted(), eval_strategy="epoch", save_strategy="best",
        save_only_model=True, save_total_limit=1, metric_for_best_model="eval_score", load_best_model_at_end=True,
        num_train_epochs=4,
    )  # fmt: skip
    trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-12"]
    loaded = jf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-12")
    assert small.same(loaded.params, trainer.model.params)
    assert json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())["best_metric"] == 0.6


def test_a_metric_that_is_not_there(tmp_path: Path) -> None:
    trainer = small.trainer(
        tmp_path, eval_dataset=small.rows(4), eval_strategy="steps", metric_for_best_model="f1", max_steps=1
    )
    with pytest.raises(ConfigError, match="'f1'.*eval_loss"):
        trainer.train()


def test_the_model_that_was_given_stays_and_the_trained_one_is_saved(tmp_path: Path) -> None:
    model = small.bert()
    before = jax.tree.map(np.array, model.params)
    trainer = small.trainer(tmp_path, model, max_steps=2, bf16=True, gradient_checkpointing=True)
    trainer.train()
    assert small.same(model.params, before) and not small.same(trainer.model.params, before)
    assert trainer.model.module == model.module and trainer.model._static.compute_dtype is None
    trainer.save_model()
    again = jf.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert small.same(again.params, trainer.model.params)
    assert json.loads((tmp_path / "training_args.json").read_text())["bf16"] is True


@pytest.mark.slow
def test_out_of_memory_makes_the_same_steps_of_smaller_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = small.trainer(tmp_path / "fits", max_steps=3)
    wanted.train()
    run = TrainStep.__call__

    def scarce(self: TrainStep, state: Any, batch: Any) -> Any:
        if self.accumulate < 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
        return run(self, state, batch)

    monkeypatch.setattr(TrainStep, "__call__", scarce)
    trainer = small.trainer(tmp_path / "scarce", max_steps=3, auto_find_batch_size=True)
    trainer.train()
    assert (trainer.rows, trainer.accumulate, trainer.state.train_batch_size) == (2, 2, 2)
    np.testing.assert_allclose(small.losses(trainer), small.losses(wanted), rtol=1e-5)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        small.trainer(tmp_path / "fails", max_steps=3).train()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no eval_dataset"):
        small.trainer(tmp_path, eval_strategy="steps")
    with pytest.raises(ConfigError, match="compute_result"):
        small.trainer(tmp_path, batch_eval_metrics=True, compute_metrics=lambda prediction: {})
    with pytest.raises(ConfigError, match="either model= or model_init="):
        small.trainer(tmp_path, model_init=None)
    with pytest.raises(ConfigError, match="no train_dataset"):
        small.trainer(tmp_path, train_dataset=None).train()
    with pytest.raises(ConfigError, match="no preset"):
        small.trainer(tmp_path, rules="FSPD")
