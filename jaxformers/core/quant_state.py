"""QuantCache: keys and values as int8 with a scale for each token and head, a quarter of float32's memory."""

from typing import Self

import jax
import jax.numpy as jnp

from jaxformers.core.pytree import dataclass
from jaxformers.core.state import KVCache

LARGEST = 127


def quantize(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [...,D] -> int8 [...,D] and scale [...,1] with x ~ int8 * scale; off by at most half a scale."""
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=-1, keepdims=True) / LARGEST
    return jnp.round(x / jnp.where(scale > 0, scale, 1.0)).astype(jnp.int8), scale


@dataclass
class QuantCache:
    """A KVCache in int8: k [B,S,K,D], v [B,S,K,Dv], and scales [B,S,K,1] in float32."""

    k: jax.Array
    v: jax.Array
    k_scale: jax.Array
    v_scale: jax.Array

    @classmethod
    def empty_like(cls, cache: KVCache) -> Self:
        """An empty cache of the same sizes."""

        def zeros(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.zeros(x.shape, jnp.int8), jnp.zeros((*x.shape[:-1], 1), jnp.float32)

        (k, k_scale), (v, v_scale) = zeros(cache.k), zeros(cache.v)
        return cls(k, v, k_scale, v_scale)

    def write(self, k: jax.Array, v: jax.Array, slots: jax.Array):
        """Store k, v [B,T,K,D] from slot `slots[0]` on; all slots are returned in float32."""
        start = (0, slots[0], 0, 0)

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice(old, new, start)

        (k, k_scale), (v, v_scale) = quantize(k), quantize(v)
        new = QuantCache(put(self.k, k), put(self.v, v), put(self.k_scale, k_scale), put(self.v_scale, v_scale))
        return new, new.k * new.k_scale, new.v * new.v_scale, jnp.arange(self.k.shape[1])
