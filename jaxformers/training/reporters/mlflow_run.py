"""MLflow: parameters and metrics of a run on a server, or in a local store."""

import os
import re
from typing import Any

from jaxformers.core.extras import require
from jaxformers.training.callbacks.callback import TrainerCallback
from jaxformers.training.reporters.names import settings

LONGEST = 6000  # characters of a parameter's value that MLflow keeps
AT_ONCE = 100  # parameters in one call


class MLflowCallback(TrainerCallback):
    """Logs to the active run, or to one of its own, where $MLFLOW_TRACKING_URI and $MLFLOW_EXPERIMENT_NAME say.

    Raises MissingExtra when neither mlflow nor mlflow-skinny is installed.
    """

    def __init__(self) -> None:
        self.mlflow = require("mlflow", extra="mlflow", purpose="report_to='mlflow'")
        self.own = self.ready = False
        self.run_id: str | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.run_id = None
            self.open(args, state)
            self.describe(settings(args, kwargs.get("model")))

    def open(self, args: Any, state: Any) -> None:
        """Begin a run where none is active, or go on with the one of a training that is over."""
        self.ready = True
        if self.mlflow.active_run() is not None:
            return
        if self.run_id is None and (name := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
            self.mlflow.set_experiment(name)
        run = self.mlflow.start_run(run_id=self.run_id, run_name=state.trial_name or args.run_name)
        self.run_id, self.own = run.info.run_id, True

    def describe(self, values: dict[str, Any]) -> None:
        """Log the settings; those that are too long for a parameter are left out."""
        items = [(name, str(value)) for name, value in values.items()]
        short = [(name, text) for name, text in items if len(text) <= LONGEST]
        for start in range(0, len(short), AT_ONCE):
            self.mlflow.log_params(dict(short[start : start + AT_ONCE]))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if not self.ready:
            self.open(args, state)
        numbers = {name: value for name, value in kwargs["logs"].items() if isinstance(value, int | float)}
        allowed = {re.sub(r"[^0-9A-Za-z_\-. :/]", "_", name): value for name, value in numbers.items()}
        self.mlflow.log_metrics(allowed, step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.own:
            self.mlflow.end_run()
        self.own = self.ready = False
