"""What training carries from step to step: one pytree, donated to each step and written whole by a checkpoint."""

from typing import Any

import jax
from flax import struct

from jaxformers.hub.model import Model
from jaxformers.training.scaling import LossScale


@struct.dataclass
class TrainState:
    """A training run at one moment.

    step: Int[], steps taken, skipped ones included. model: the masters, adapters included. opt_state: the optimiser's,
    over trainable leaves only. key: typed; a step's own is fold_in(key, step). scale: with float16 only. ema: averages
    of the trainable leaves, when asked for.
    """

    step: jax.Array
    model: Model
    opt_state: Any
    key: jax.Array
    scale: LossScale | None = None
    ema: Any = None
