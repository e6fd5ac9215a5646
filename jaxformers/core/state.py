"""Decoding states: pytrees that a layer reads and returns anew.

`write(k, v, slots)` stores new keys and values and returns (state, k, v, k_slots): what the queries may now look at.
k and v are arrays [B,S,K,D], or what `core/stored.py` has: int8 with scales (`QuantCache`), pages (`PagedCache`).
`core/rows.py` must know every kind.
"""

import jax
import jax.numpy as jnp

from jaxformers.core.pytree import dataclass


@dataclass
class KVCache:
    """Keys and values of every slot: k [B,S,K,D], v [B,S,K,Dv]."""

    k: jax.Array
    v: jax.Array

    @classmethod
    def zeros(
        cls, batch: int, length: int, heads: int, dim: int, dtype=jnp.float32, v_dim: int | None = None
    ) -> "KVCache":
        """An empty cache of `length` slots."""
        v = jnp.zeros((batch, length, heads, v_dim or dim), dtype)
        return cls(jnp.zeros((batch, length, heads, dim), dtype), v)

    def write(self, k: jax.Array, v: jax.Array, slots: jax.Array):
        """Store k, v [B,T,K,D] from slot `slots[0]` on."""
        start = (0, slots[0], 0, 0)
        new = KVCache(
            jax.lax.dynamic_update_slice(self.k, k.astype(self.k.dtype), start),
            jax.lax.dynamic_update_slice(self.v, v.astype(self.v.dtype), start),
        )
        return new, new.k, new.v, jnp.arange(self.k.shape[1])


@dataclass
class RingCache:
    """The last W keys and values, for attention within a window: k [B,W,K,D]. Slot s lives at s mod W."""

    k: jax.Array
    v: jax.Array
    slots: jax.Array  # Int [W]: the slot each entry holds, -1 when empty

    @classmethod
    def zeros(cls, batch: int, length: int, heads: int, dim: int, dtype=jnp.float32) -> "RingCache":
        """An empty ring of `length` entries."""
        empty = jnp.zeros((batch, length, heads, dim), dtype)
        return cls(empty, empty, jnp.full((length,), -1, jnp.int32))

    def write(self, k: jax.Array, v: jax.Array, slots: jax.Array):
        """Store k, v [B,T,K,D]; more tokens than entries are all visible now, and the last W are kept."""
        size, count = self.k.shape[1], k.shape[1]
        k, v, slots = k.astype(self.k.dtype), v.astype(self.v.dtype), slots.astype(jnp.int32)
        last = slice(max(count - size, 0), None)
        at = slots[last] % size
        new = RingCache(
            self.k.at[:, at].set(k[:, last]), self.v.at[:, at].set(v[:, last]), self.slots.at[at].set(slots[last])
        )
        if count == 1:
            return new, new.k, new.v, far_when_empty(new.slots)
        # The first of several new queries still see entries that the last ones overwrite.
        seen = jnp.concatenate([self.slots, slots])
        return new, jnp.concatenate([self.k, k], 1), jnp.concatenate([self.v, v], 1), far_when_empty(seen)


def far_when_empty(slots: jax.Array) -> jax.Array:
    """Move empty entries beyond every query's reach, so that the causal rule hides them."""
    return jnp.where(slots < 0, jnp.iinfo(jnp.int32).max, slots)


@dataclass
class CrossState:
    """Keys and values of the encoder's output, computed once: k, v [B,S,K,D]."""

    k: jax.Array
    v: jax.Array

    @classmethod
    def zeros(cls, batch: int, length: int, heads: int, dim: int, dtype=jnp.float32) -> "CrossState":
        """A state to be filled by the first call that brings the encoder's output."""
        empty = jnp.zeros((batch, length, heads, dim), dtype)
        return cls(empty, empty)


@dataclass
class SsmState:
    """A recurrent mixer's memory: the convolution's last inputs and the hidden state."""

    conv: jax.Array  # [B, kernel - 1, channels]
    hidden: jax.Array  # [B, ...], float32


@dataclass
class Cache:
    """What a decoder remembers between calls: a state for each layer, how many tokens came, and which were real."""

    layers: tuple
    index: jax.Array  # Int []: tokens written so far
    valid: jax.Array  # Bool [B,S]: slots that hold real tokens
    encoder_valid: jax.Array | None = None  # Bool [B,S'] for the encoder's output
    shift: jax.Array | None = None  # Int [B]: position of a new token minus its slot; layers do not read it

    @property
    def length(self) -> int:
        """Slots there are in all."""
        return self.valid.shape[1]
