"""LossOutput: sums and the weight they are divided by, so that parts of a batch add up to the whole."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.hub.model import Model

Batch = dict[str, jax.Array]


@struct.dataclass
class LossOutput:
    """A loss as sums over what counts (tokens, examples, boxes); the loss itself is total / weight.

    metrics: further sums, divided by `weight` like `total`.
    """

    total: jax.Array  # Float[]
    weight: jax.Array  # Float[]
    metrics: dict[str, jax.Array] = struct.field(default_factory=dict)

    @property
    def loss(self) -> jax.Array:
        """The mean over what counts, as transformers' `model(...).loss`; 0 / 0 where nothing counts."""
        return self.total / self.weight

    @property
    def mean(self) -> jax.Array:
        """The loss, and 0 where nothing counts."""
        return self.total / jnp.maximum(self.weight, 1e-30)

    def __add__(self, other: "LossOutput") -> "LossOutput":
        metrics = dict(self.metrics)
        for name, value in other.metrics.items():
            metrics[name] = metrics[name] + value if name in metrics else value
        return LossOutput(self.total + other.total, self.weight + other.weight, metrics)

    def plus(self, **means: jax.Array) -> "LossOutput":
        """The loss with means added to it, each also told among the metrics under its name."""
        sums = {name: mean * self.weight for name, mean in means.items()}
        return LossOutput(self.total + sum(sums.values()), self.weight, {**self.metrics, **sums})

    def told(self, name: str) -> "LossOutput":
        """The same with the loss so far among the metrics."""
        return LossOutput(self.total, self.weight, {name: self.total, **self.metrics})


def summed(losses: jax.Array, counts: jax.Array) -> LossOutput:
    """The output of losses of any shape, of which those count where `counts` is true."""
    losses = jnp.where(counts, losses, 0.0).astype(jnp.float32)
    return LossOutput(losses.sum(), counts.astype(jnp.float32).sum())


# loss(model, batch, key): a key is for dropout, None is evaluation (train=False).
Loss = Callable[[Model, Batch, jax.Array | None], LossOutput]
