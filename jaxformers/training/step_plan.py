"""How many steps a run has: from epochs or max_steps, rows and batches, by transformers' arithmetic."""

import math
import sys
from dataclasses import dataclass
from typing import Any

from jaxformers.core.errors import ConfigError


@dataclass(frozen=True)
class StepPlan:
    """The length of a run. steps_per_epoch: None when the data does not say how much it is."""

    max_steps: int
    num_train_epochs: int
    steps_per_epoch: int | None
    batches_per_epoch: int  # batches that an epoch accumulates from: what an epoch's fraction is counted in
    accumulate: int

    def epoch(self, done: int, step_in_epoch: int) -> float:
        """The epoch after so many steps of it; `done` are whole ones before."""
        return done + min(step_in_epoch * self.accumulate, self.batches_per_epoch) / self.batches_per_epoch


def plan_steps(args: Any, loader: Any, accumulate: int) -> StepPlan:
    """Plan a run over a loader of whole steps. Raises ConfigError when neither data nor arguments bound it."""
    each = None if loader.batch_size is None else loader.batches_per_epoch
    if each is None:
        if args.max_steps <= 0:
            raise ConfigError("the data does not say how long it is: set max_steps, which also fixes the schedule")
        return StepPlan(args.max_steps, sys.maxsize, None, args.max_steps * accumulate, accumulate)
    if each == 0:
        raise ConfigError(
            f"the data has fewer rows than a step takes ({loader.batch_size}): set dataloader_drop_last=False, or "
            "smaller batches"
        )
    partly = loader.last != "drop" and loader.sampler is None and loader.batch_sampler is None
    batches = -(-len(loader.source) * accumulate // loader.batch_size) if partly else each * accumulate
    if args.max_steps > 0:
        return StepPlan(args.max_steps, math.ceil(args.max_steps / each), each, batches, accumulate)
    steps = math.ceil(args.num_train_epochs * each)
    return StepPlan(steps, math.ceil(args.num_train_epochs), each, batches, accumulate)
