"""Attention mixers: self-attention with grouped heads, and attention over an encoder's output."""

from typing import Any

import jax
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.mask import Mask
from jaxformers.core.sharding import constrain
from jaxformers.core.state import CrossState, KVCache, RingCache
from jaxformers.core.stored import dense
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import dropout
from jaxformers.nn.position import Rope
from jaxformers.nn.remat import keep
from jaxformers.ops.attention import attention, attention_weights, weighted_values

Records = dict[str, jax.Array]


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B,T,H*D] -> [B,T,H,D]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def attend(
    module: nn.Module, q, k, v, mask, ctx: Context, *, rate: float, name: str, **kwargs
) -> tuple[jax.Array, Records]:
    """Run the attention op, or its plain form when the weights are wanted or dropped out.

    Here every kind of attention says how its parts lie on a mesh. What `keys` is cut along decides how queries reach
    them: along nothing, each device gathers all keys; along what cuts `length`, they go round a ring.
    """
    q = keep(constrain(q, "batch", "length", "heads", None), "qkv")
    k, v = placed_keys(k, q.dtype), placed_keys(v, q.dtype)
    if (bias := kwargs.get("bias")) is not None:
        kwargs["bias"] = constrain(bias, "batch", "heads", "length", None)
    drops = ctx.train and rate > 0.0
    if not drops and not ctx.records(name):
        out = constrain(attention(q, k, v, mask, **kwargs), "batch", "length", "heads", None)
        return keep(out, "context"), {}
    visible = mask.array(kwargs.pop("q_slots"), kwargs.pop("k_slots"))
    weights = attention_weights(q, dense(k, q.dtype), visible, **kwargs)
    out = keep(weighted_values(dropout(module, weights, rate, ctx.train), dense(v, q.dtype)), "context")
    return out, {name: weights.astype(q.dtype)} if ctx.records(name) else {}


def placed_keys(x: Any, dtype: Any) -> Any:
    """Keys or values in the queries' dtype and in their place on the mesh; what a cache stores otherwise stays so."""
    if not isinstance(x, jax.Array):
        return x.placed()
    return keep(constrain(x.astype(dtype), "batch", "keys", "kv_heads", None), "qkv")


class Attention(nn.Module):
    """Self-attention: grouped heads, rotary positions, a window; what the mask hides comes from the context."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None = None
    window: int | None = None  # keys a query sees, its own included
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: nn.Module | None = None  # a template, copied for q and for k
    scale: float | None = None
    softcap: float | None = None
    dropout: float = 0.0

    def init_state(self, batch: int, length: int, dtype) -> KVCache | RingCache:
        """An empty cache; a window needs a ring of its own size only."""
        if self.window is not None and self.window < length:
            return RingCache.zeros(batch, self.window, self.kv_heads, self.head_dim, dtype)
        return KVCache.zeros(batch, length, self.kv_heads, self.head_dim, dtype)

    def project(self, x: jax.Array, ctx: Context) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values [B,T,H|K,D], normalised and rotated."""

        def one(name: str, heads: int, axis: str) -> jax.Array:
            linear = Linear(heads * self.head_dim, self.qkv_bias, ("embed", axis), name=name)
            return split_heads(linear(x), heads)

        q = one("q_proj", self.heads, "heads")
        k = one("k_proj", self.kv_heads, "kv_heads")
        v = one("v_proj", self.kv_heads, "kv_heads")
        if self.qk_norm is not None:
            q, k = self.qk_norm.copy(name="q_norm")(q), self.qk_norm.copy(name="k_norm")(k)
        if self.rope is not None:
            q, k = self.rope(q, ctx.positions), self.rope(k, ctx.positions)
        return q, k, v

    def visible(self, ctx: Context) -> Mask:
        """What a query may see: the context's rules, and the window."""
        return ctx.mask.within(self.window)

    def extras(self) -> dict[str, jax.Array]:
        """Further inputs of the attention op; for kinds of attention that have some."""
        return {}

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state=None):
        q, k, v = self.project(x, ctx)
        k = constrain(k, "batch", "length", "kv_heads", None)
        v = constrain(v, "batch", "length", "kv_heads", None)
        k_slots = ctx.slots
        if state is not None:
            state, k, v, k_slots = state.write(k, v, ctx.slots)
        out, records = attend(
            self,
            q,
            k,
            v,
            self.visible(ctx),
            ctx,
            rate=self.dropout,
            name="attentions",
            q_slots=ctx.slots,
            k_slots=k_slots,
            scale=self.head_dim**-0.5 if self.scale is None else self.scale,
            softcap=self.softcap,
            bias=ctx.bias,
            **self.extras(),
        )
        out = out.reshape(*x.shape[:-1], -1)
        out = Linear(x.shape[-1], self.out_bias, ("heads", "embed"), name="o_proj")(out)
        return out, state, records


class TwoSidedAttention(Attention):
    """Self-attention whose window reaches as far ahead as back; for masks that are not causal."""

    def visible(self, ctx: Context) -> Mask:
        return ctx.mask.around(None if self.window is None else self.window - 1)


class CrossAttention(nn.Module):
    """Attention over `ctx.encoder`; its keys and values are computed once and kept in the state."""

    heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    k_bias: bool | None = None  # None: as qkv_bias; Whisper has none on keys
    scale: float | None = None
    dropout: float = 0.0

    def init_cross_state(self, batch: int, length: int, dtype) -> CrossState:
        """Room for the keys and values of an encoder output of `length`."""
        return CrossState.zeros(batch, length, self.heads, self.head_dim, dtype)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: CrossState | None = None):
        def one(name: str, y: jax.Array, bias: bool) -> jax.Array:
            return split_heads(Linear(self.heads * self.head_dim, bias, ("embed", "heads"), name=name)(y), self.heads)

        q = one("q_proj", x, self.qkv_bias)
        if ctx.encoder is not None:
            k = one("k_proj", ctx.encoder, self.qkv_bias if self.k_bias is None else self.k_bias)
            v = one("v_proj", ctx.encoder, self.qkv_bias)
            if state is not None:
                state = CrossState(k.astype(state.k.dtype), v.astype(state.v.dtype))
        elif state is not None:
            k, v = state.k.astype(q.dtype), state.v.astype(q.dtype)
        else:
            raise ValueError("cross-attention needs the encoder's output or a cache that holds it; got neither")
        out, records = attend(
            self,
            q,
            k,
            v,
            ctx.encoder_mask,
            ctx,
            rate=self.dropout,
            name="cross_attentions",
            q_slots=ctx.slots,
            k_slots=jax.numpy.arange(k.shape[1]),
            scale=self.head_dim**-0.5 if self.scale is None else self.scale,
        )
        out = out.reshape(*x.shape[:-1], -1)
        return Linear(x.shape[-1], self.out_bias, ("heads", "embed"), name="o_proj")(out), state, records
