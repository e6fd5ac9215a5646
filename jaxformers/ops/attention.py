"""Attention: softmax(q k^T * scale + bias, masked) v, with grouped heads."""

import jax
import jax.numpy as jnp

from jaxformers.core.mask import Mask
from jaxformers.core.sharding import mesh_in_use
from jaxformers.ops.blocked_attention import blocked
from jaxformers.ops.decode_attention import decode_tpu, paged_tpu
from jaxformers.ops.dispatch import Op
from jaxformers.ops.dot import einsum
from jaxformers.ops.flash_attention import flash_tpu
from jaxformers.ops.plain_attention import HIDDEN, attention_weights, reference, weighted_values
from jaxformers.ops.ring import ring_attention
from jaxformers.ops.stored_keys import on_arrays, with_gradients_of

__all__ = ["attention", "attention_weights", "reference", "weighted_values"]

attention = Op("attention", reference)
attention.register("paged_tpu", platforms=("tpu",), priority=14)(with_gradients_of(reference, paged_tpu))
attention.register("decode_tpu", platforms=("tpu",), priority=12)(with_gradients_of(reference, decode_tpu))
attention.register("flash_tpu", platforms=("tpu",), priority=10)(on_arrays(flash_tpu))
attention.register("blocked", priority=-5)(on_arrays(blocked))  # behind what is faster on some device
# Where the rules cut keys along the sequence.
attention.register("ring", priority=20)(on_arrays(ring_attention))


BLOCK = 2**22  # scores computed at a time on a CPU: about what its last cache holds
FEW = 2**14  # scores of a row; fewer are not worth a loop


@attention.register("cpu", platforms=("cpu",))
@on_arrays
def row_by_row(
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
    """Float32 prompts on a CPU: one row of the batch after another, and many queries in blocks.

    XLA's CPU compiler runs products with two batch axes several times slower than those with one, and a row's scores
    stay in the cache between the products.
    """
    if sinks is not None:
        raise NotImplementedError("takes no sinks")
    if q.dtype != jnp.float32 or q.shape[1] * k.shape[1] * q.shape[2] < FEW:
        raise NotImplementedError("meant for float32 and more than a few queries")
    if mesh_in_use() is not None:
        raise NotImplementedError("a loop over rows would gather a batch that a mesh has split")
    visible = mask.array(q_slots, k_slots)
    whole = (visible is None or visible.shape[0] == 1, bias is None or bias.shape[0] == 1)

    def row(given: tuple) -> jax.Array:
        one, own_visible, own_bias = given
        seen = None if visible is None else visible[0] if whole[0] else own_visible
        extra = None if bias is None else bias[0] if whole[1] else own_bias
        return row_attention(*one, seen, extra, (scale, softcap))

    rows = ((q, k, v), None if whole[0] else visible, None if whole[1] else bias)
    if q.shape[0] == 1:
        return row(jax.tree.map(lambda x: x[0], rows))[None]
    return jax.lax.map(row, rows)


def row_attention(q, k, v, visible: jax.Array | None, bias: jax.Array | None, scales: tuple) -> jax.Array:
    """One row, [T,H,Dv]. q [T,H,D], k and v [S,K,D|Dv], visible and bias [1|H,1|T,S], scales (scale, softcap)."""
    t, h, _ = q.shape
    scale, softcap = scales
    groups = h // k.shape[1]
    q, k, v = jnp.swapaxes(q, 0, 1) * scale, jnp.swapaxes(k, 0, 1), jnp.swapaxes(v, 0, 1)
    if groups > 1:
        k, v = jnp.repeat(k, groups, axis=0), jnp.repeat(v, groups, axis=0)

    def block(given: tuple) -> jax.Array:
        q, seen, extra = given
        scores = einsum("htd,hsd->hts", q, k)
        scores = scores if softcap is None else jnp.tanh(scores / softcap) * softcap
        scores = scores if extra is None else scores + extra
        scores = scores if seen is None else jnp.where(seen, scores, HIDDEN)
        powers = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
        return einsum("hts,hsd->htd", powers, v) / jnp.sum(powers, axis=-1)[..., None]

    size = max(BLOCK // (h * k.shape[1]) // 128 * 128, 128)
    parts = (q, over_queries(visible, t), over_queries(bias, t))
    if t <= size:
        return jnp.swapaxes(block(parts), 0, 1)
    count = -(-t // size)
    cut = jax.tree.map(lambda x: in_blocks(x, count, size), parts)
    # A gradient computes a block's scores again: kept, those of all blocks would grow with the square of the length.
    out = jax.lax.map(jax.checkpoint(block, prevent_cse=False), cut)  # [count,H,size,Dv]
    return out.transpose(0, 2, 1, 3).reshape(count * size, h, -1)[:t]


def over_queries(x: jax.Array | None, queries: int) -> jax.Array | None:
    """x [1|H,1|T,S] with an entry for every query."""
    return None if x is None else jnp.broadcast_to(x, (x.shape[0], queries, x.shape[2]))


def in_blocks(x: jax.Array, count: int, size: int) -> jax.Array:
    """[H,T,...] -> [count,H,size,...], filled up with zeros."""
    x = jnp.pad(x, ((0, 0), (0, count * size - x.shape[1]), (0, 0)))
    return jnp.moveaxis(x.reshape(x.shape[0], count, size, x.shape[2]), 1, 0)
