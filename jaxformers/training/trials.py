"""Trials: a Trainer run again and again with other arguments, each in a folder of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxformers.core.errors import ConfigError
from jaxformers.training.search import Pruned, default_objective, search
from jaxformers.training.trainer_state import BestRun


def hyperparameter_search(
    trainer: Any,
    hp_space: Callable[[Any], dict[str, Any]] | None = None,
    compute_objective: Callable[[dict[str, float]], Any] | None = None,
    n_trials: int = 20,
    direction: str | list[str] = "minimize",
    backend: str | None = None,
    hp_name: Callable[[Any], str] | None = None,
    **options: Any,
) -> BestRun | list[BestRun]:
    """Try arguments until the study in `output_dir` has `n_trials` and return the best; called again, it goes on.

    hp_space: a trial to {argument: value}. compute_objective: an evaluation's metrics to what is optimised. A trial
    whose evaluations are worse than others' is pruned, by optuna's `pruner`. Other options are those of
    optuna.create_study and Study.optimize. The trainer and its model are afterwards as before. Raises ConfigError and
    MissingExtra.
    """
    if backend not in (None, "optuna"):
        raise ConfigError(f"backend={backend!r} is not among the searches; expected 'optuna'")
    if options.get("n_jobs", 1) != 1:
        raise ConfigError("trials share one Trainer: instead of n_jobs, start more processes with the same storage")
    if trainer.model_init is None:
        raise ConfigError("a search needs a new model for each trial: make the Trainer with model_init=, not model=")
    if trainer.args.eval_strategy == "no":
        raise ConfigError("a search compares evaluations: set eval_strategy to 'steps' or 'epoch'")
    before, model, folder = trainer.args, trainer.model, Path(trainer.args.output_dir)
    objective = compute_objective or default_objective

    def run(trial: Any, space: dict[str, Any]) -> Any:
        name = hp_name(trial) if hp_name else f"run-{trial.number}"
        set_arguments(trainer, before.replace(**checked(before, space), output_dir=str(folder / name)))
        reporter = Reporter(trial, objective)
        trainer.watch = reporter.report
        trainer.train(resume_from_checkpoint=False, trial=trial)
        return reporter.last if reporter.last is not None else objective(trainer.evaluate())

    try:
        return search(run, folder, space=hp_space, n_trials=n_trials, direction=direction, **options)
    finally:
        trainer.watch, trainer.trial, trainer.model = None, None, model
        set_arguments(trainer, before)


def set_arguments(trainer: Any, args: Any) -> None:
    """Give a trainer other arguments, and what follows from them."""
    trainer.args = args
    trainer.prepare()


def checked(args: Any, space: dict[str, Any]) -> dict[str, Any]:
    """A trial's values, in the types of the arguments. Raises ConfigError for what is no argument."""
    if unknown := [name for name in space if not hasattr(args, name)]:
        raise ConfigError(f"hp_space gives {', '.join(unknown)}, which TrainingArguments does not have")
    return space


class Reporter:
    """Tells a trial each evaluation's objective, and whether it is worth going on."""

    def __init__(self, trial: Any, objective: Callable[[dict[str, float]], Any]) -> None:
        self.trial, self.objective, self.last = trial, objective, None

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Raises Pruned when others were better at this step."""
        self.last = self.objective(dict(metrics))
        if isinstance(self.last, (list, tuple)):
            return  # optuna prunes one objective only
        self.trial.report(self.last, step)
        if self.trial.should_prune():
            raise Pruned(f"pruned at step {step}")
