"""Attention in plain JAX: the reference, and its two halves for callers that want the weights."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.mask import Mask
from jaxformers.core.stored import Ragged, dense, gathered, rows_of
from jaxformers.ops.dot import einsum

HIDDEN = -1e30  # far below any score, yet a fully hidden row stays finite


def attention_weights(
    q: jax.Array,
    k: jax.Array,
    mask: jax.Array | None,
    *,
    scale: float,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """Probabilities [B,H,T,S] in float32. q [B,T,H,D], k [B,S,K,D], mask and bias [1|B,1|H,T,S], sinks [H]."""
    b, t, h, d = q.shape
    kv = k.shape[2]
    scores = einsum("btkgd,bskd->bkgts", q.reshape(b, t, kv, h // kv, d), k)
    scores = scores.reshape(b, h, t, k.shape[1]).astype(jnp.float32) * scale
    if softcap is not None:
        scores = jnp.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, HIDDEN)
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    # A sink is one more key without a value: it only takes probability away.
    extra = jnp.broadcast_to(sinks.astype(jnp.float32)[None, :, None, None], (b, h, t, 1))
    return jax.nn.softmax(jnp.concatenate([scores, extra], axis=-1), axis=-1)[..., :-1]


def weighted_values(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Sum of values [B,T,H,Dv]. weights [B,H,T,S], v [B,S,K,Dv]."""
    b, h, t, s = weights.shape
    kv = v.shape[2]
    grouped = weights.astype(v.dtype).reshape(b, kv, h // kv, t, s)
    return einsum("bkgts,bskd->btkgd", grouped, v).reshape(b, t, h, v.shape[-1])


def reference(
    q: jax.Array,
    k: Any,
    v: Any,
    mask: Mask,
    *,
    q_slots: jax.Array,
    k_slots: jax.Array,
    scale: float,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """The plain form, [B,T,H,Dv]: any mask, any bias, any stored form; memory is quadratic in length."""
    if isinstance(k, Ragged):
        refuse_beside_rows(mask, bias)
        return end_to_end(q, k, v, mask, scale=scale, softcap=softcap, sinks=sinks)
    k, v = dense(k, q.dtype), dense(v, q.dtype)
    visible = mask.array(q_slots, k_slots)
    weights = attention_weights(q, k, visible, scale=scale, bias=bias, softcap=softcap, sinks=sinks)
    return weighted_values(weights, v)


def refuse_beside_rows(mask: Mask, bias: jax.Array | None) -> None:
    """Raise ValueError for rules that mean nothing where rows lie end to end: each token sees its own row's."""
    set_rules = [name for name in ("q_segments", "k_segments", "prefix", "dense") if getattr(mask, name) is not None]
    if bias is not None or set_rules or mask.right != 0:
        found = ", ".join([*set_rules, *(["a bias"] if bias is not None else []), f"right={mask.right}"])
        raise ValueError(f"rows laid end to end take causal masks and windows; got {found}")


def end_to_end(q: jax.Array, k: Ragged, v: Ragged, mask: Mask, *, scale, softcap=None, sinks=None) -> jax.Array:
    """Attention of q [1,T,H,D] to the pages of each token's row, one token after another; padding gives zeros."""
    row, real = rows_of(k.starts, q.shape[1])
    place = k.lengths[row] + jnp.arange(q.shape[1]) - k.starts[row]

    def one(given: tuple) -> jax.Array:
        q, row, place, real = given
        keys, values = (gathered(x.pages, x.table[row][None]).astype(q.dtype) for x in (k, v))
        slots = jnp.arange(keys.shape[1])
        seen = mask.replace(keys=None).array(place[None], slots)
        weights = attention_weights(q[None, None], keys, seen, scale=scale, softcap=softcap, sinks=sinks)
        return jnp.where(real, weighted_values(weights, values)[0, 0], 0.0)

    return jax.lax.map(one, (q[0], row, place, real))[None]
