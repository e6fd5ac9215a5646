"""Early stopping: a run ends when its evaluations have not improved for a while."""

import logging
from typing import Any

from jaxformers.core.errors import ConfigError
from jaxformers.training.callbacks.callback import ExportableState, TrainerCallback, TrainerControl

log = logging.getLogger("jaxformers")


class EarlyStoppingCallback(TrainerCallback, ExportableState):
    """Stops after `early_stopping_patience` evaluations in a row that are not better by more than the threshold.

    The best metric is known once it was evaluated, by `metric_for_best_model`. Raises ConfigError when nothing is
    evaluated.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0) -> None:
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold or 0.0
        self.early_stopping_patience_counter = 0

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        if args.metric_for_best_model is None or args.eval_strategy == "no":
            raise ConfigError(
                "EarlyStoppingCallback watches evaluations: set eval_strategy to 'steps' or 'epoch', and "
                f"metric_for_best_model (they are {args.eval_strategy!r} and {args.metric_for_best_model!r})"
            )
        if not args.load_best_model_at_end:
            log.warning("early stopping without load_best_model_at_end=True leaves the last model, not the best")

    def on_evaluate(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        name = args.metric_for_best_model
        name = name if name.startswith("eval_") else f"eval_{name}"
        value = kwargs["metrics"].get(name)
        if value is None:
            log.warning("early stopping is off: the evaluation has no %s", name)
            return control
        if state.best_metric is None or self.improved(value - state.best_metric, args.greater_is_better):
            self.early_stopping_patience_counter = 0
        else:
            self.early_stopping_patience_counter += 1
        control.should_training_stop |= self.early_stopping_patience_counter >= self.early_stopping_patience
        return control

    def improved(self, change: float, greater_is_better: bool) -> bool:
        """Whether the metric went the right way, and far enough."""
        return (change > 0 if greater_is_better else change < 0) and abs(change) > self.early_stopping_threshold

    def state(self) -> dict[str, Any]:
        return {
            "args": {
                "early_stopping_patience": self.early_stopping_patience,
                "early_stopping_threshold": self.early_stopping_threshold,
            },
            "attributes": {"early_stopping_patience_counter": self.early_stopping_patience_counter},
        }
