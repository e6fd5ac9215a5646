"""Disentangled attention: scores from content, and from content against the distance of two tokens (DeBERTa)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.sharding import constrain
from jaxformers.nn.attention import attend, split_heads
from jaxformers.nn.embed import Embed
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import dropout
from jaxformers.nn.stack import Stack
from jaxformers.ops.dot import einsum


def log_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance below `length`: exact up to half of `buckets`, then logarithmic. Int [length].

    A table, because the logarithm of a distance at the edge of two buckets must not depend on the device.
    """
    distance, half = np.arange(length), buckets // 2
    ratio = np.log(np.maximum(distance, max(half - 1, 1)).astype(np.float32) / np.float32(half))
    scale = np.log(np.float32((max_distance - 1) / half))
    far = np.ceil(ratio / scale * np.float32(half - 1)) + half
    return np.where(distance <= half, distance, far).astype(np.int32)


class DisentangledAttention(nn.Module):
    """softmax((q k + q k_r + k q_r) / sqrt(n d)) v, r a table of distances in `ctx.features[0]` [2 span, D].

    n counts the terms. kinds: "c2p" for the second, "p2c" for the third. share: k_r and q_r use the projections of
    keys and queries. Source: arXiv:2006.03654.
    """

    heads: int
    head_dim: int
    kinds: tuple[str, ...] = ()
    span: int | None = None  # None: no relative positions, though `kinds` still counts in n
    buckets: int = -1  # below 1: every distance has a row of its own
    max_distance: int = -1
    share: bool = False
    dropout: float = 0.0
    table_dropout: float = 0.0

    def rows(self, ctx: Context) -> jax.Array:
        """The row of the table for each query and key, Int [T,S]."""
        ahead = ctx.slots[:, None] - ctx.slots[None, :]
        if self.buckets > 0 and self.max_distance > 0:
            table = jnp.asarray(log_buckets(ctx.slots.shape[0], self.buckets, self.max_distance))
            ahead = jnp.sign(ahead) * table[jnp.abs(ahead)]
        return jnp.clip(ahead + self.span, 0, 2 * self.span - 1)

    def bias(self, q: jax.Array, k: jax.Array, q_r: jax.Array | None, k_r: jax.Array | None, ctx: Context) -> jax.Array:
        """The terms that read distances, [B,H,T,S], before scaling. q_r, k_r [2 span,H,D]."""
        rows = self.rows(ctx)
        out = jnp.zeros((), jnp.float32)
        if k_r is not None:
            scores = einsum("bthd,rhd->bhtr", q, k_r).astype(jnp.float32)
            out = out + jnp.take_along_axis(scores, rows[None, None], axis=-1)
        if q_r is not None:
            scores = einsum("bshd,rhd->bhsr", k, q_r).astype(jnp.float32)
            out = out + jnp.take_along_axis(scores, rows.T[None, None], axis=-1).swapaxes(-1, -2)
        return out

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state=None):
        def linear(name: str) -> Linear:
            return Linear(self.heads * self.head_dim, True, ("embed", "heads"), name=name)

        q_proj, k_proj = linear("q_proj"), linear("k_proj")
        projections = (q_proj, k_proj, linear("v_proj"))
        q, k, v = (constrain(split_heads(p(x), self.heads), "batch", "length", "heads", None) for p in projections)
        terms = sum(kind in self.kinds for kind in ("c2p", "p2c"))
        scale = 1.0 / math.sqrt(self.head_dim * (1 + terms))
        bias = None
        if self.span is not None and terms:
            table = dropout(self, ctx.features[0], self.table_dropout, ctx.train)

            def against(kind: str, shared: Linear, name: str) -> jax.Array | None:
                if kind not in self.kinds:
                    return None
                return split_heads((shared if self.share else linear(name))(table), self.heads)

            k_r = against("c2p", k_proj, "k_r_proj")
            q_r = against("p2c", q_proj, "q_r_proj")
            bias = self.bias(q, k, q_r, k_r, ctx) * scale
        places = {"q_slots": ctx.slots, "k_slots": ctx.slots}
        out, records = attend(
            self, q, k, v, ctx.mask, ctx, rate=self.dropout, name="attentions", scale=scale, bias=bias, **places
        )
        out = out.reshape(*x.shape[:-1], -1)
        return Linear(x.shape[-1], True, ("heads", "embed"), name="o_proj")(out), state, records


class RelativeStack(Stack):
    """A stack with a table of distances, normed by `table_norm` if given, that its layers find in `ctx.features`."""

    table: Embed | None = None
    table_norm: nn.Module | None = None

    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        rows = self.table(jnp.arange(self.table.size))
        if self.table_norm is not None:
            rows = self.table_norm(rows)
        return super().__call__(x, ctx.replace(features=(rows,)), state)
