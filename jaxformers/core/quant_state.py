"""QuantCache: keys and values as int8 with a scale for each token and head, a quarter of float32's memory."""

from typing import Self

import jax
import jax.numpy as jnp

from jaxformers.core.pytree import dataclass
from jaxformers.core.state import KVCache
from jaxformers.core.stored import Scaled

LARGEST = 127


def quantize(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [...,D] -> int8 [...,D] and scale [...,1] with x ~ int8 * scale; off by at most half a scale."""
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=-1, keepdims=True) / LARGEST
    return jnp.round(x / jnp.where(scale > 0, scale, 1.0)).astype(jnp.int8), scale


@dataclass
class QuantCache:
    """A KVCache in int8: k [B,S,K,D], v [B,S,K,Dv], and scales [B,1,S*K] in float32.

    Scales lie in one row, as kernels read them: an axis of K alone would fill a TPU's memory with padding.
    """

    k: jax.Array
    v: jax.Array
    k_scale: jax.Array
    v_scale: jax.Array

    @classmethod
    def empty_like(cls, cache: KVCache) -> Self:
        """An empty cache of the same sizes."""

        def zeros(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            *front, slots, heads, _ = x.shape
            return jnp.zeros(x.shape, jnp.int8), jnp.zeros((*front, 1, slots * heads), jnp.float32)

        (k, k_scale), (v, v_scale) = zeros(cache.k), zeros(cache.v)
        return cls(k, v, k_scale, v_scale)

    def write(self, k: jax.Array, v: jax.Array, slots: jax.Array):
        """Store k, v [B,T,K,D] from slot `slots[0]` on; all slots are returned as they are stored."""
        start, heads = slots[0], self.k.shape[2]

        def put(old: jax.Array, scales: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            new, scale = quantize(x)
            scale = scale.reshape(scale.shape[0], 1, -1)
            return (
                jax.lax.dynamic_update_slice(old, new, (0, start, 0, 0)),
                jax.lax.dynamic_update_slice(scales, scale, (0, 0, start * heads)),
            )

        (k, k_scale), (v, v_scale) = put(self.k, self.k_scale, k), put(self.v, self.v_scale, v)
        new = QuantCache(k, v, k_scale, v_scale)
        return new, scaled(k, k_scale), scaled(v, v_scale), jnp.arange(k.shape[1])


def scaled(values: jax.Array, scale: jax.Array) -> Scaled:
    """What attention reads, of values [B,S,K,D] and scales [B,1,S*K]."""
    return Scaled(values, scale.reshape(values.shape[:3]))
