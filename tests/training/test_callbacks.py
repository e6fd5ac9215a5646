"""Callbacks: early stopping as transformers', the bar and its curve, a profile, the meter, and the states they keep."""

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers

from jaxformers.core.errors import ConfigError
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.callbacks import (
    DefaultFlowCallback,
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerControl,
)
from jaxformers.training.callbacks.curve import curve
from jaxformers.training.callbacks.handler import CallbackHandler
from jaxformers.training.losses import ClassificationLoss
from jaxformers.training.meter import Meter, speed
from jaxformers.training.trainer_state import TrainerState
from tests.training import small

WATCHING = dict(eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, save_steps=1)


@pytest.mark.parametrize("greater", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.15])
def test_early_stopping_counts_as_transformers(greater: bool, threshold: float) -> None:
    draw = np.random.default_rng(int(greater))
    args = TrainingArguments("out", **WATCHING, metric_for_best_model="score", greater_is_better=greater)
    ours = EarlyStoppingCallback(2, threshold)
    theirs = transformers.EarlyStoppingCallback(2, threshold)
    state, best = TrainerState(), None
    for value in draw.random(30):
        control, other = TrainerControl(), transformers.TrainerControl()
        state.best_metric = best
        ours.on_evaluate(args, state, control, metrics={"eval_score": value})
        theirs.on_evaluate(args, state, other, metrics={"eval_score": value})
        assert ours.state() == theirs.state()
        assert control.should_training_stop == other.should_training_stop
        best = value if best is None or (value > best if greater else value < best) else best


def test_early_stopping_needs_evaluations() -> None:
    with pytest.raises(ConfigError, match="eval_strategy"):
        EarlyStoppingCallback().on_train_begin(TrainingArguments("out"), TrainerState(), TrainerControl())


def test_states_are_kept_and_restored() -> None:
    stopping = EarlyStoppingCallback(5)
    stopping.early_stopping_patience_counter = 3
    handler = CallbackHandler([DefaultFlowCallback, stopping, EarlyStoppingCallback(7)])
    states = handler.states(TrainerControl(should_save=True))
    assert [one["args"]["early_stopping_patience"] for one in states["EarlyStoppingCallback"]] == [5, 7]
    assert states["TrainerControl"]["args"]["should_save"] is True
    again = CallbackHandler([DefaultFlowCallback, EarlyStoppingCallback(), EarlyStoppingCallback()])
    again.restore(states)
    restored: Any = again.callbacks[1]
    assert (restored.early_stopping_patience, restored.early_stopping_patience_counter) == (5, 3)
    assert again.pop(EarlyStoppingCallback) is restored and len(again.callbacks) == 2
    assert again.pop(PrinterCallback) is None


def test_the_curve_shows_high_and_low() -> None:
    lines = curve([4.0, 2.0, 1.0, float("nan")], height=2)
    assert [line.split("┤")[0].strip() for line in lines] == ["4", "1"]
    assert [line.split("┤")[1] for line in lines] == ["█  ", "█▅▁"]
    assert len(curve(list(range(500)), width=40)[0].split("┤")[1]) == 40
    assert curve([]) == [] and curve([1.0]) != []


def test_the_bar_draws_steps_logs_and_losses(tmp_path: Path) -> None:
    screen = io.StringIO()
    trainer = small.trainer(tmp_path, max_steps=3, eval_strategy="steps", eval_steps=3, eval_dataset=small.rows(4))
    trainer.pop_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback(screen))
    trainer.train()
    text = screen.getvalue()
    assert "training" in text and "3/3" in text and "┤" in text
    assert "step 1 " in text and "loss=" in text and "eval_loss=" in text


def test_the_printer_writes_a_line(capsys: pytest.CaptureFixture) -> None:
    state = TrainerState(global_step=2, max_steps=5)
    PrinterCallback().on_log(None, state, None, logs={"loss": 0.123456, "total_flos": 5, "note": "x"})
    assert capsys.readouterr().out == "step 2/5  loss=0.1235  note=x\n"


def test_a_profile_of_chosen_steps(tmp_path: Path) -> None:
    small.trainer(tmp_path, max_steps=3, profile_steps=[2, 3]).train()
    (trace,) = tmp_path.glob("runs/plugins/profile/*/*.xplane.pb")
    assert b"train" in trace.read_bytes()


def test_the_meter_leaves_out_what_was_lost() -> None:
    now = [0.0]
    meter = Meter(peak=1000.0, clock=lambda: now[0])
    with meter.losing("compilation"):
        now[0] += 10
    for _ in range(4):
        meter.count(samples=8, tokens=100, flops=500)
        now[0] += 1
    read = meter.read()
    assert read["samples_per_second"] == 8 and read["tokens_per_second"] == 100 and read["steps_per_second"] == 1
    assert read["mfu"] == 0.5 and read["goodput"] == pytest.approx(4 / 14, abs=1e-4)
    assert meter.read() == {}
    assert speed("train", 2.0, samples=8, steps=1) == {
        "train_runtime": 2.0, "train_samples_per_second": 4.0, "train_steps_per_second": 0.5,
    }  # fmt: skip


def test_throughput_is_logged(tmp_path: Path) -> None:
    trainer = small.trainer(tmp_path, max_steps=2, log_throughput=True, include_num_input_tokens_seen=True)
    trainer.train()
    first, second, last = trainer.state.log_history
    assert second["tokens_per_second"] > 0 and 0 <= second["goodput"] <= 1 and last["train_goodput"] > 0
    assert (first["num_input_tokens_seen"], second["num_input_tokens_seen"]) == (24, 48)
    assert trainer.state.total_flos == last["total_flos"] > 0


def burst(model: Any, batch: Any, key: Any) -> Any:
    """The loss of a classifier times a factor in the rows."""
    rest = {name: value for name, value in batch.items() if name != "factor"}
    out = ClassificationLoss()(model, rest, key)
    return out.replace(total=out.total * batch["factor"].max())


def test_what_is_not_finite_is_left_out_of_the_mean(tmp_path: Path) -> None:
    rows = [{**row, "factor": np.inf if n == 4 else 1.0} for n, row in enumerate(small.rows(12))]
    trainer = small.trainer(
        tmp_path, train_dataset=rows, compute_loss_func=burst, max_steps=3, logging_steps=3, nan_policy="skip",
        remove_unused_columns=False, train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer.train()
    logs = trainer.state.log_history[0]
    assert np.isfinite(logs["loss"]) and logs["steps_not_finite"] == 1
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(trainer.model))
