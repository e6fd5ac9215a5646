"""TensorBoard: event files, written by tensorboardX."""

import json
import os
from pathlib import Path
from typing import Any

from jaxformers.core.extras import require
from jaxformers.training.callbacks.callback import TrainerCallback
from jaxformers.training.reporters.names import grouped, settings


class TensorBoardCallback(TrainerCallback):
    """Writes logs as scalars to $TENSORBOARD_LOGGING_DIR, `logging_dir` or runs/ in the output folder.

    tb_writer: a SummaryWriter to use instead. Raises MissingExtra when tensorboardX is not installed.
    """

    def __init__(self, tb_writer: Any = None) -> None:
        self.tensorboard = require("tensorboardX", extra="train", purpose="report_to='tensorboard'")
        self.writer = tb_writer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.open(args, state)
        self.writer.add_text("args", json.dumps(settings(args, None), indent=2))
        if (config := getattr(kwargs.get("model"), "config", None)) is not None:
            self.writer.add_text("model_config", json.dumps(config.to_json(), indent=2))

    def open(self, args: Any, state: Any) -> None:
        """Begin a file of events; a search's trials have a folder each."""
        if self.writer is None:
            folder = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or args.logging_dir or f"{args.output_dir}/runs")
            self.writer = self.tensorboard.SummaryWriter(str(folder / (state.trial_name or "")))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.open(args, state)
        for name, value in grouped(kwargs["logs"]).items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, state.global_step)
            else:
                self.writer.add_text(name, str(value), state.global_step)
        self.writer.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
