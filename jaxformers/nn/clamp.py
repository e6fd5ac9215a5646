"""Clamping of half-precision sums that overflow."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class HalfClamp(nn.Module):
    """Keep float16 values finite, as T5 and Whisper do after a sum; other dtypes pass unchanged."""

    always: bool = False  # also lower the limit when nothing is infinite

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.dtype != jnp.float16:
            return x
        top = jnp.finfo(x.dtype).max
        low = top - jnp.asarray(1000, x.dtype)
        limit = low if self.always else jnp.where(jnp.isinf(x).any(), low, top)
        return jnp.clip(x, -limit, limit)
