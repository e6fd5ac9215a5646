"""Context: everything a layer may read besides its input, in one read-only argument."""

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.mask import Mask


@struct.dataclass
class Context:
    """What every layer may read and none may change."""

    positions: jax.Array  # Int [1|B,T]: what position embeddings read
    slots: jax.Array  # Int [T]: place of each query in the sequence, cached tokens counted
    mask: Mask = Mask()
    bias: jax.Array | None = None  # [1|B,H,T,S], added to attention scores (T5)
    encoder: jax.Array | None = None  # [B,S,D], what cross-attention reads; None when its keys are cached already
    encoder_mask: Mask = Mask()
    features: tuple[jax.Array, ...] = ()  # further inputs a family's layers read
    train: bool = struct.field(pytree_node=False, default=False)
    record: tuple[str, ...] = struct.field(pytree_node=False, default=())  # what to return besides the output

    @classmethod
    def plain(cls, length: int, **fields) -> "Context":
        """A context for `length` tokens without a cache: slots and positions count from 0."""
        slots = jnp.arange(length)
        return cls(positions=slots[None], slots=slots, **fields)

    def by_row(self, batch: int) -> "Context":
        """Booleans in the place of arrays: which of them hold something for each of `batch` examples, along axis 0."""
        told = jax.tree.map(lambda x: x.shape[0] == batch, self)
        # Features with fewer axes are tables, whatever their size.
        features = tuple(x.ndim > 2 and x.shape[0] == batch for x in self.features)
        return told.replace(slots=False, features=features)

    def records(self, name: str) -> bool:
        """Whether the caller asked for `name`, such as "attentions"."""
        return name in self.record


def recording(**asked: bool | None) -> tuple[str, ...]:
    """Names of the records asked for: `recording(hidden_states=True)` is ("hidden_states",)."""
    return tuple(name for name, wanted in asked.items() if wanted)
