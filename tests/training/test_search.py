"""Hyper-parameter search: trials in folders of their own, hopeless ones pruned, a study that goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxformers.core.errors import ConfigError
from jaxformers.training.search import default_objective
from tests.training import small


def space(trial: Any) -> dict[str, Any]:
    """Two learning rates, of which one learns nothing."""
    rate = trial.suggest_categorical("learning_rate", [1e-9, 3e-2])
    return {"learning_rate": rate, "seed": trial.suggest_int("seed", 1, 3)}


def searching(folder: Path) -> Any:
    return small.trainer(
        folder, model_init=lambda: small.bert(), eval_strategy="steps", eval_steps=2, max_steps=6, logging_steps=2,
        eval_dataset=small.rows(12), weight_decay=0.5,
    )  # fmt: skip


@pytest.mark.slow
def test_four_trials_are_pruned_resumed_and_drawn(tmp_path: Path) -> None:
    import optuna

    options: dict[str, Any] = dict(
        hp_space=space, compute_objective=lambda metrics: metrics["eval_loss"],
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
        sampler=optuna.samplers.GridSampler({"learning_rate": [3e-2, 1e-9], "seed": [1, 2]}, seed=4),
    )  # fmt: skip
    trainer = searching(tmp_path)
    args, model = trainer.args, trainer.model
    first = trainer.hyperparameter_search(n_trials=2, **options)
    assert trainer.args is args and trainer.model is model
    best: Any = searching(tmp_path).hyperparameter_search(n_trials=4, **options)
    study = best.run_summary
    assert len(study.trials) == 4 and first.run_summary.trials[:2] == study.trials[:2]
    states = {trial.state.name for trial in study.trials}
    assert states <= {"COMPLETE", "PRUNED"} and "COMPLETE" in states
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert pruned and all(max(trial.intermediate_values) < 6 for trial in pruned)
    assert best.hyperparameters["learning_rate"] == 3e-2 and best.objective == min(
        trial.value for trial in study.trials if trial.value is not None
    )
    assert (tmp_path / "study.db").exists()
    pixels = np.asarray(Image.open(tmp_path / "study.png").convert("RGB"))
    assert (pixels.max(-1).astype(int) - pixels.min(-1) > 60).mean() > 0.001


def test_the_default_objective_is_transformers() -> None:
    from transformers.trainer_utils import default_compute_objective

    for metrics in (
        {"eval_loss": 0.5, "epoch": 1.0, "eval_runtime": 2.0, "eval_samples_per_second": 3.0},
        {"eval_loss": 0.5, "eval_f1": 0.25, "eval_accuracy": 0.5, "eval_steps_per_second": 1.0},
    ):
        assert default_objective(metrics) == default_compute_objective(dict(metrics))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model_init"):
        small.trainer(tmp_path, eval_strategy="steps", eval_dataset=small.rows(4)).hyperparameter_search()
    with pytest.raises(ConfigError, match="optuna"):
        searching(tmp_path).hyperparameter_search(backend="ray")
    with pytest.raises(ConfigError, match="learning_rat"):
        searching(tmp_path).hyperparameter_search(n_trials=1, hp_space=lambda trial: {"learning_rat": 1})
