"""Attention: softmax(q k^T * scale + bias, masked) v, with grouped heads."""

import jax
import jax.numpy as jnp

from jaxformers.core.mask import Mask
from jaxformers.ops.dispatch import Op
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
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    *,
    q_slots: jax.Array,
    k_slots: jax.Array,
    scale: float,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """The plain form, [B,T,H,Dv]: any mask, any bias, memory quadratic in length."""
    visible = mask.array(q_slots, k_slots)
    weights = attention_weights(q, k, visible, scale=scale, bias=bias, softcap=softcap, sinks=sinks)
    return weighted_values(weights, v)


attention = Op("attention", reference)


@attention.register("cpu", platforms=("cpu",))
def repeated_heads(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    *,
    q_slots: jax.Array,
    k_slots: jax.Array,
    scale: float,
    **rest,
) -> jax.Array:
    """Float32 prompts on a CPU: keys repeated for every head, and the sum divided out after the values.

    XLA's CPU compiler runs one batched product faster than a grouped one. A single query is better off grouped.
    """
    if any(value is not None for value in rest.values()):
        raise NotImplementedError(f"takes no {', '.join(name for name, value in rest.items() if value is not None)}")
    if q.shape[1] == 1 or q.dtype != jnp.float32:
        raise NotImplementedError("meant for float32 and more than one query")
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    scores = einsum("bthd,bshd->bhts", q * scale, k)
    visible = mask.array(q_slots, k_slots)
    if visible is not None:
        scores = jnp.where(visible, scores, HIDDEN)
    powers = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(powers, axis=-1)  # [B,H,T]
    return einsum("bhts,bshd->bthd", powers, v) / jnp.swapaxes(total, 1, 2)[..., None]
