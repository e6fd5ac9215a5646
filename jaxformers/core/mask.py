"""Which keys a query may see, kept symbolic until an attention needs an array.

Queries and keys are numbered by slot: their place in the sequence, padding included. Positions (what rotary and learned
embeddings read) are another matter.
"""

from typing import Self

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Mask:
    """Key s is visible to query t when every rule that is set allows it."""

    keys: jax.Array | None = None  # Bool [B,S]: real keys, not padding
    q_segments: jax.Array | None = None  # Int [B,T]: document of each query (packed sequences)
    k_segments: jax.Array | None = None  # Int [B,S]
    prefix: jax.Array | None = None  # Int [B]: keys before it are visible to every query
    dense: jax.Array | None = None  # Bool [1|B,1|H,T,S]: a mask given by the caller
    left: int | None = struct.field(pytree_node=False, default=None)  # slots a query sees before its own
    right: int | None = struct.field(pytree_node=False, default=None)  # slots a query sees after its own

    @classmethod
    def causal(cls, keys: jax.Array | None = None) -> Self:
        """Each query sees itself and what came before."""
        return cls(keys=keys, right=0)

    def within(self, window: int | None) -> Self:
        """Limit a causal mask to the last `window` keys, the query's own included; None changes nothing."""
        if window is None:
            return self
        left = window - 1 if self.left is None else min(self.left, window - 1)
        return self.replace(left=left)

    def around(self, distance: int | None) -> Self:
        """Limit to keys at most `distance` slots away on either side; None changes nothing."""
        if distance is None:
            return self
        right = distance if self.right is None else min(self.right, distance)
        left = distance if self.left is None else min(self.left, distance)
        return self.replace(left=left, right=right)

    def array(self, q_slots: jax.Array, k_slots: jax.Array) -> jax.Array | None:
        """Return Bool [1|B,1|H,T,S], None when all is visible. q_slots [T], k_slots [S]; a slot < 0 is empty."""
        q, k = q_slots[:, None], k_slots[None, :]
        out = None
        if self.right is not None:
            out = (k <= q + self.right)[None, None]
        if self.left is not None:
            out = both(out, (k >= q - self.left)[None, None])
        if self.prefix is not None:
            seen = (k_slots[None] < self.prefix[:, None])[:, None, None]
            out = seen | out if out is not None else seen
        if self.keys is not None:
            keys = jnp.take(self.keys, jnp.maximum(k_slots, 0), axis=1) & (k_slots >= 0)
            out = both(out, keys[:, None, None])
        if self.q_segments is not None and self.k_segments is not None:
            out = both(out, (self.q_segments[:, :, None] == self.k_segments[:, None, :])[:, None])
        if self.dense is not None:
            out = both(out, self.dense)
        return out


def both(a: jax.Array | None, b: jax.Array) -> jax.Array:
    """Logical and, where None stands for all True."""
    return b if a is None else a & b
