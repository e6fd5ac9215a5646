"""LayerNorm without parameters."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class BareLayerNorm(nn.Module):
    """(x - mean) / std, in float32 and cast back. Source: arXiv:1607.06450."""

    eps: float = 1e-5

    def __call__(self, x: jax.Array) -> jax.Array:
        h = x.astype(jnp.float32)
        h = h - jnp.mean(h, axis=-1, keepdims=True)
        return (h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + self.eps)).astype(x.dtype)
