"""Dynamic loss scaling: float16 gradients are kept in range by a factor that falls on overflow and grows back."""

import jax
import jax.numpy as jnp
from flax import struct

# torch.amp.GradScaler's defaults.
INITIAL = 2.0**16
GROWTH = 2.0
BACKOFF = 0.5
INTERVAL = 2000
SMALLEST = 1.0


@struct.dataclass
class LossScale:
    """The factor, and how many steps in a row were finite since it last changed."""

    value: jax.Array  # Float[]
    good: jax.Array  # Int[]
    interval: int = struct.field(pytree_node=False, default=INTERVAL)

    @classmethod
    def start(cls, value: float = INITIAL, interval: int = INTERVAL) -> "LossScale":
        """A scale at its initial value."""
        return cls(jnp.float32(value), jnp.int32(0), interval)

    def adjust(self, finite: jax.Array) -> "LossScale":
        """The scale after a step whose gradients were finite, or not."""
        good = jnp.where(finite, self.good + 1, 0)
        grows = good >= self.interval
        # Beyond float32's largest power of two there is nothing to gain, and an infinite scale never comes back.
        larger = jnp.minimum(self.value * GROWTH, 2.0**127)
        value = jnp.where(finite, jnp.where(grows, larger, self.value), self.value * BACKOFF)
        return self.replace(value=jnp.maximum(value, SMALLEST), good=jnp.where(grows, 0, good))
