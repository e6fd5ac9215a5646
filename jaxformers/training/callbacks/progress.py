"""What a terminal shows of a run: a bar with the loss as a curve, or a line for each log."""

import sys
from typing import Any

from jaxformers.training.callbacks.callback import TrainerCallback
from jaxformers.training.callbacks.curve import curve

HIDDEN = {"total_flos"}


def written(logs: dict[str, Any]) -> str:
    """Logs as one line: numbers with four digits, long texts cut."""
    shown = {name: value for name, value in logs.items() if name not in HIDDEN}
    words = {name: f"{value:.4g}" if isinstance(value, float) else str(value)[:100] for name, value in shown.items()}
    return "  ".join(f"{name}={word}" for name, word in words.items())


class PrinterCallback(TrainerCallback):
    """Prints each log on a line of its own."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_local_process_zero:
            print(f"step {state.global_step}/{state.max_steps}  {written(kwargs['logs'])}", flush=True)


class ProgressCallback(TrainerCallback):
    """A bar of steps with the time left, and under it the curve of the loss; logs run above it.

    file: where to draw, stderr by default.
    """

    def __init__(self, file: Any = None) -> None:
        self.file = file
        self.losses: list[float] = []
        self.bar: Any = None
        self.tasks: dict[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        self.bar = bar(self.losses, self.file or sys.stderr)
        self.tasks = {"train": self.bar.add_task("training", total=state.max_steps, completed=state.global_step)}
        self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.tasks["train"], completed=state.global_step)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            if "eval" not in self.tasks:
                self.tasks["eval"] = self.bar.add_task("evaluation", total=length(kwargs.get("eval_dataloader")))
            self.bar.advance(self.tasks["eval"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None and "eval" in self.tasks:
            self.bar.remove_task(self.tasks.pop("eval"))

    on_predict = on_evaluate

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if self.bar is None:
            return
        if "loss" in logs:
            self.losses.append(logs["loss"])
        self.bar.console.print(f"[dim]step {state.global_step}[/dim]  {written(logs)}", highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def bar(losses: list[float], file: Any) -> Any:
    """A rich bar with the curve of `losses`, a list that grows, under it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Bar(Progress):
        """The bar and the curve as one live display."""

        def get_renderables(self):
            yield self.make_tasks_table(self.tasks)
            if len(losses) > 1:
                yield Text("\n".join(["loss", *curve(losses)]))

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Bar(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(file=file))


def length(loader: Any) -> int | None:
    """How many batches a loader has, where it knows."""
    try:
        return len(loader)
    except TypeError:
        return None
