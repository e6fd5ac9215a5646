"""Attention whose scores are computed in float32, whatever the precision of the rest."""

import jax
import jax.numpy as jnp

from jaxformers.core.context import Context
from jaxformers.nn.attention import Attention


class UpcastAttention(Attention):
    """Attention with queries, keys and weights in float32 (GPT-2's reorder_and_upcast_attn)."""

    def project(self, x: jax.Array, ctx: Context) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v = super().project(x, ctx)
        return q.astype(jnp.float32), k, v

    def __call__(self, x: jax.Array, ctx: Context, state=None):
        out, state, records = super().__call__(x, ctx, state)
        return out.astype(x.dtype), state, {name: r.astype(x.dtype) for name, r in records.items()}
