"""Hyper-parameter search on optuna: trials of a Trainer in a study that is kept in a file, pruned and continued."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxformers.core.errors import ConfigError
from jaxformers.core.extras import require
from jaxformers.training.plots import canvas
from jaxformers.training.trainer_state import BestRun

log = logging.getLogger("jaxformers")
OPTIMIZE = ("timeout", "n_jobs", "catch", "callbacks", "gc_after_trial", "show_progress_bar")  # Study.optimize's
FILE = "study.db"


class Pruned(Exception):
    """A trial ended early because others were better at the same step."""


def default_space(trial: Any) -> dict[str, Any]:
    """transformers' default space."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
    }


def default_objective(metrics: dict[str, float]) -> float:
    """transformers' default objective: the evaluation loss, or the sum of the metrics where there are some."""
    others = {
        name: value
        for name, value in metrics.items()
        if name not in ("eval_loss", "epoch") and not name.endswith(("_runtime", "_per_second"))
    }
    return sum(others.values()) if others else metrics["eval_loss"]


def search(
    run: Callable[[Any, dict[str, Any]], float | list[float]],
    folder: Path,
    *,
    space: Callable[[Any], dict[str, Any]] | None = None,
    n_trials: int = 20,
    direction: str | list[str] = "minimize",
    **options: Any,
) -> BestRun | list[BestRun]:
    """Run trials until the study has `n_trials`, those of earlier calls included, and return the best.

    run: trains by a trial and its hyper-parameters and returns the objective; raises Pruned when the trial is hopeless.
    folder: of the study's file, unless `storage` says otherwise, and of its plot, study.png.
    options: those of optuna.create_study and Study.optimize, under their names.
    """
    optuna = require("optuna", extra="search", purpose="hyperparameter_search")
    folder.mkdir(parents=True, exist_ok=True)
    directions = {"directions": direction} if isinstance(direction, list) else {"direction": direction}
    optimize = {name: options.pop(name) for name in OPTIMIZE if name in options}
    created = {"storage": f"sqlite:///{folder / FILE}", "study_name": "search", "load_if_exists": True}
    study = optuna.create_study(**directions, **{**created, **options})
    if study.directions != optuna.create_study(**directions).directions:
        raise ConfigError(f"the study in {folder} goes the other way than direction={direction!r}: name another one")

    def objective(trial: Any) -> float | list[float]:
        try:
            return run(trial, (space or default_space)(trial))
        except Pruned as pruned:
            raise optuna.TrialPruned(str(pruned)) from pruned

    left = n_trials - sum(trial.state.is_finished() for trial in study.trials)
    log.info("the study has %d trials, %d are to come", len(study.trials), max(left, 0))
    if left > 0:
        study.optimize(objective, n_trials=left, **optimize)
    plot_study(study, folder / "study.png")
    return best(study, isinstance(direction, list))


def best(study: Any, several: bool) -> BestRun | list[BestRun]:
    """The best trial, or all that none other is better than."""
    if several:
        return [BestRun(str(trial.number), trial.values, trial.params, study) for trial in study.best_trials]
    if not any(trial.value is not None and trial.state.name == "COMPLETE" for trial in study.trials):
        raise ConfigError("no trial was completed: all were pruned or failed; try more trials or another pruner")
    trial = study.best_trial
    return BestRun(str(trial.number), trial.value, trial.params, study)


def plot_study(study: Any, path: Path) -> Path | None:
    """Draw the objective of each trial with the best so far, and each trial's course where it was reported."""
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE" and len(trial.values) == 1]
    if not done:
        return None
    figure, axes = canvas()
    axes.remove()
    left, right = figure.subplots(1, 2)
    pick = min if study.direction.name == "MINIMIZE" else max
    numbers, values = [trial.number for trial in done], [trial.value for trial in done]
    left.plot(numbers, values, "o", label="trial")
    left.step(numbers, [pick(values[: n + 1]) for n in range(len(values))], where="post", label="best so far")
    left.set(xlabel="trial", ylabel="objective")
    left.legend(frameon=False)
    for trial in study.trials:
        if course := sorted(trial.intermediate_values.items()):
            pruned = trial.state.name == "PRUNED"
            right.plot(*zip(*course, strict=True), ":" if pruned else "-", marker=".", label=f"{trial.number}")
    right.set(xlabel="step", ylabel="objective (dotted: pruned)")
    figure.savefig(path)
    return path
