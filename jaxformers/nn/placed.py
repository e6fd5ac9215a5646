"""Attention that adds positions to its queries and keys, not to its values, in every layer. Source: arXiv:2005.12872.

`ctx.features` holds the positions of the queries and, for attention over an encoder, those of its places.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.attention import Attention, attend, split_heads
from jaxformers.nn.linear import Linear


class PlacedAttention(Attention):
    """Self-attention whose queries and keys see x + positions."""

    def project(self, x: jax.Array, ctx: Context) -> tuple[jax.Array, jax.Array, jax.Array]:
        def one(name: str, y: jax.Array, axis: str) -> jax.Array:
            return split_heads(Linear(self.heads * self.head_dim, True, ("embed", axis), name=name)(y), self.heads)

        placed = x + ctx.features[0].astype(x.dtype)
        return one("q_proj", placed, "heads"), one("k_proj", placed, "kv_heads"), one("v_proj", x, "kv_heads")


class PlacedCrossAttention(nn.Module):
    """Attention over `ctx.encoder`; queries see x + their positions, keys the places' and values neither."""

    heads: int
    head_dim: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state=None):
        def one(name: str, y: jax.Array) -> jax.Array:
            return split_heads(Linear(self.heads * self.head_dim, True, ("embed", "heads"), name=name)(y), self.heads)

        if ctx.encoder is None:
            raise ValueError("this attention needs an encoder's output in the context; got none")
        own, places = (p.astype(x.dtype) for p in ctx.features)
        out, records = attend(
            self,
            one("q_proj", x + own),
            one("k_proj", ctx.encoder + places),
            one("v_proj", ctx.encoder),
            ctx.encoder_mask,
            ctx,
            rate=self.dropout,
            name="cross_attentions",
            q_slots=ctx.slots,
            k_slots=jnp.arange(ctx.encoder.shape[1]),
            scale=self.head_dim**-0.5,
        )
        out = out.reshape(*x.shape[:-1], -1)
        return Linear(x.shape[-1], True, ("heads", "embed"), name="o_proj")(out), state, records
