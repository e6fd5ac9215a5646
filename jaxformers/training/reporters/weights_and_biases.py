"""Weights & Biases: logs, settings and the end of a run."""

import os
from typing import Any

from jaxformers.core.extras import require
from jaxformers.training.callbacks.callback import TrainerCallback
from jaxformers.training.reporters.names import grouped, settings


class WandbCallback(TrainerCallback):
    """Sends logs to a run of W&B, its own variables ($WANDB_PROJECT, $WANDB_MODE, ...) as everywhere.

    A run that is open already is used and left open. Raises MissingExtra when wandb is not installed.
    """

    def __init__(self) -> None:
        self.wandb = require("wandb", extra="wandb", purpose="report_to='wandb'")
        self.run: Any = None
        self.own = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.run is None:
            self.open(args, state, kwargs.get("model"))

    def open(self, args: Any, state: Any, model: Any) -> None:
        """Take the open run or begin one, and tell it the settings and what the x axis is."""
        self.own = self.wandb.run is None
        name = {"name": state.trial_name, "group": args.run_name} if state.trial_name else {"name": args.run_name}
        self.run = self.wandb.run or self.wandb.init(project=os.environ.get("WANDB_PROJECT", args.project), **name)
        self.run.config.update(settings(args, model), allow_val_change=True)
        self.run.define_metric("train/global_step")
        self.run.define_metric("*", step_metric="train/global_step", step_sync=True)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self.run is None:
            self.open(args, state, kwargs.get("model"))
        self.run.log({**grouped(kwargs["logs"]), "train/global_step": state.global_step})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a search's trial; any other run stays open for evaluations that follow, and wandb ends it at exit."""
        if self.run is not None and self.own and state.is_hyper_param_search:
            self.run.finish()
            self.run = None
