"""Latent attention: keys and values are grown from one short vector per token, and only that is cached.

Source: arXiv:2405.04434.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.sharding import constrain
from jaxformers.core.state import KVCache
from jaxformers.core.stored import dense
from jaxformers.nn.attention import attend, split_heads
from jaxformers.nn.linear import Linear
from jaxformers.nn.low_rank import low_rank, updated
from jaxformers.nn.param import Normal, param
from jaxformers.nn.position import Rope
from jaxformers.ops.dot import dot, einsum


class Grow(nn.Module):
    """The kernel that makes each head's key and value from the latent, used whole or in halves."""

    rank: int
    heads: int
    key_dim: int
    value_dim: int

    def setup(self) -> None:
        shape = (self.rank, self.heads * (self.key_dim + self.value_dim))
        self.kernel = param(self, "kernel", Normal(), shape, (None, "heads"))

    def halves(self) -> tuple[jax.Array, jax.Array]:
        """Kernels of the keys [R,H,Dk] and of the values [R,H,Dv]."""
        both = split_heads(updated(self, self.kernel, (None, "heads")), self.heads)
        return both[..., : self.key_dim], both[..., self.key_dim :]

    def __call__(self, latent: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys [B,S,H,Dk] and values [B,S,H,Dv] of a latent [B,S,R]."""
        grown = low_rank(self, latent, dot(latent, self.kernel), (None, "heads"))
        both = split_heads(grown, self.heads)
        return both[..., : self.key_dim], both[..., self.key_dim :]

    def shrink(self, q: jax.Array) -> jax.Array:
        """Queries that compare with the latent itself: [B,T,H,Dk] -> [B,T,H,R]."""
        return einsum("bthd,rhd->bthr", q, self.halves()[0])

    def values(self, x: jax.Array) -> jax.Array:
        """Values of averaged latents: [B,T,H,R] -> [B,T,H,Dv]."""
        return einsum("bthr,rhd->bthd", x, self.halves()[1])


class LatentAttention(nn.Module):
    """Heads share one latent and one rotated key; with a cache, queries are compared with the latents directly."""

    heads: int
    key_dim: int  # of the part of q and k without rotation
    rope_dim: int
    value_dim: int
    rank: int  # of the latent
    rope: Rope
    norm: nn.Module  # a template, copied for the latents of queries and keys
    query_rank: int | None = None
    bias: bool = False
    scale: float | None = None
    dropout: float = 0.0

    def init_state(self, batch: int, length: int, dtype) -> KVCache:
        """Room for latents, in the place of keys, and for rotated keys, in the place of values."""
        return KVCache.zeros(batch, length, 1, self.rank, dtype, self.rope_dim)

    def queries(self, x: jax.Array) -> jax.Array:
        """[B,T,H,Dk+Dr], by way of a latent of their own if the family has one."""
        size = self.heads * (self.key_dim + self.rope_dim)
        if self.query_rank is None:
            return split_heads(Linear(size, axes=("embed", "heads"), name="q_proj")(x), self.heads)
        latent = Linear(self.query_rank, self.bias, ("embed", None), name="q_a_proj")(x)
        latent = self.norm.copy(name="q_a_norm")(latent)
        return split_heads(Linear(size, axes=(None, "heads"), name="q_b_proj")(latent), self.heads)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: KVCache | None = None):
        q = constrain(self.queries(x), "batch", "length", "heads", None)
        q, q_rope = q[..., : self.key_dim], self.rope(q[..., self.key_dim :], ctx.positions)
        latent = Linear(self.rank + self.rope_dim, self.bias, ("embed", None), name="kv_a_proj")(x)
        k_rope = self.rope(latent[:, :, None, self.rank :], ctx.positions)
        latent = self.norm.copy(name="kv_a_norm")(latent[..., : self.rank])
        grow = Grow(self.rank, self.heads, self.key_dim, self.value_dim, name="kv_b_proj")
        k_slots = ctx.slots
        if state is None:
            k, v = grow(latent)
            k = jnp.concatenate([k, jnp.broadcast_to(k_rope, (*k.shape[:3], self.rope_dim))], axis=-1)
        else:
            state, latents, k_rope, k_slots = state.write(latent[:, :, None], k_rope, ctx.slots)
            v = dense(latents, q.dtype)
            k = jnp.concatenate([v, dense(k_rope, q.dtype)], axis=-1)
            q = grow.shrink(q)
        out, records = attend(
            self,
            jnp.concatenate([q, q_rope], axis=-1),
            k,
            v,
            ctx.mask,
            ctx,
            rate=self.dropout,
            name="attentions",
            q_slots=ctx.slots,
            k_slots=k_slots,
            scale=(self.key_dim + self.rope_dim) ** -0.5 if self.scale is None else self.scale,
            bias=ctx.bias,
        )
        if state is not None:
            out = grow.values(out)
        out = out.reshape(*x.shape[:-1], -1)
        return Linear(x.shape[-1], self.bias, ("heads", "embed"), name="o_proj")(out), state, records
