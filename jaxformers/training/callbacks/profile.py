"""A profile of a few steps: what the devices and the host did, for TensorBoard's profiler or Perfetto."""

from pathlib import Path
from typing import Any

import jax

from jaxformers.training.callbacks.callback import TrainerCallback


class ProfilerCallback(TrainerCallback):
    """Traces the steps `first` to `last`, both included and counted from 1, with `jax.profiler`.

    folder: where TensorBoard looks; by default the run's logging folder. The first step compiles, so start later.
    """

    def __init__(self, first: int, last: int, folder: str | Path | None = None) -> None:
        self.first, self.last, self.folder = first, last, folder
        self.open = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.first and state.is_world_process_zero:
            # What runs already belongs to steps before.
            jax.block_until_ready(jax.tree.leaves(kwargs.get("model")))
            jax.profiler.start_trace(str(self.folder or args.logging_dir or Path(args.output_dir) / "runs"))
            self.open = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.open and state.global_step >= self.last:
            self.close(kwargs.get("model"))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.open:
            self.close(kwargs.get("model"))

    def close(self, model: Any) -> None:
        """Wait for the last step, then write the trace."""
        jax.block_until_ready(jax.tree.leaves(model))
        jax.profiler.stop_trace()
        self.open = False
