"""Long attention in plain JAX: blocks of queries meet blocks of keys, so memory is linear in the length.

For GPUs, which have no kernel of this library yet, and for whatever other kernels refuse. The gradient is written by
hand and computes scores again: derived by jax, it would keep those of all blocks.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxformers.core.mask import Mask
from jaxformers.ops import ring_blocks
from jaxformers.ops.flash_attention import on_each_device
from jaxformers.ops.ring_parts import EMPTY, HIDDEN, Places, Rules, sinks_gradient, with_sinks

LONG = 2**22  # scores of a head; fewer fit, and the plain form computes them faster
BLOCK = 1024  # queries and keys in a product at most
SCORES = 2**27  # of all rows and heads of a device, computed at a time


def blocked(
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
    """As the attention op. Raises NotImplementedError for short sequences and dense masks."""
    if mask.dense is not None:
        raise NotImplementedError("a dense mask is as large as the scores; give it as padding, segments or a window")
    if q.shape[1] * k.shape[1] < LONG:
        raise NotImplementedError(f"{q.shape[1]} x {k.shape[1]} scores of a head are few; meant for {LONG} and more")
    if isinstance(scale, jax.Array) or isinstance(softcap, jax.Array):
        raise NotImplementedError("scale and softcap must be numbers, known when the program is traced")
    local = partial(local_attention, scale, softcap)
    return on_each_device(local, q, k, v, bias, sinks, mask, q_slots, k_slots)


def local_attention(scale: float, softcap: float | None, q, k, v, bias, sinks, mask: Mask, q_slots, k_slots):
    """Attention on one device: [B,T,Hq,D] and so on, filled up to whole blocks."""
    block = block_size(q.shape[0] * q.shape[2])
    more_q, more_k = (-x.shape[1] % even(x.shape[1], block) for x in (q, k))
    rules = Rules(scale, softcap, mask.left, mask.right, block=block)
    places = filled_places(mask, q_slots, k_slots, (more_q, more_k))
    length = q.shape[1]
    q, k, v = (jnp.swapaxes(filled(x, 1, more), 1, 2) for x, more in ((q, more_q), (k, more_k), (v, more_k)))
    if bias is not None:
        bias = bias if bias.shape[2] == 1 else filled(bias, 2, more_q)
        bias = bias if bias.shape[3] == 1 else filled(bias, 3, more_k)
        bias = jnp.broadcast_to(bias, (*bias.shape[:3], k.shape[2]))
    return jnp.swapaxes(attend(rules, q, k, v, bias, sinks, places), 1, 2)[:, :length]


def block_size(rows: int) -> int:
    """Queries and keys in a block, for so many rows times heads."""
    size = 2 ** int(math.log2(max(SCORES / rows, 1)) / 2)
    return max(min(size, BLOCK), 128)


def even(length: int, block: int) -> int:
    """The size of blocks that a sequence is filled up to: as few as `block` allows, and alike, for tensor cores."""
    return -(-length // -(-length // block) // 64) * 64


def filled(x: jax.Array, axis: int, more: int) -> jax.Array:
    """An array with zeros behind an axis."""
    return jnp.pad(x, [(0, more if n == axis else 0) for n in range(x.ndim)])


def filled_places(mask: Mask, q_slots: jax.Array, k_slots: jax.Array, more: tuple[int, int]) -> Places:
    """What the mask needs to know of queries and keys; those that are made up are like the last, and keys not real."""
    real = None
    if mask.keys is not None:
        real = jnp.take(mask.keys, jnp.maximum(k_slots, 0), axis=1) & (k_slots >= 0)
    elif more[1]:
        real = jnp.ones((1, k_slots.shape[0]), bool)
    q_segments = k_segments = None
    if mask.q_segments is not None and mask.k_segments is not None:
        q_segments, k_segments = filled(mask.q_segments, 1, more[0]), filled(mask.k_segments, 1, more[1])
    q_slots, k_slots = (jnp.pad(x, (0, n), mode="edge") for x, n in zip((q_slots, k_slots), more, strict=True))
    real = None if real is None else filled(real, 1, more[1])
    return Places(q_slots, k_slots, real, q_segments, k_segments, mask.prefix)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(rules: Rules, q, k, v, bias, sinks, places: Places) -> jax.Array:
    """The result [B,H,T,Dv] of q [B,H,T,D], k and v [B,K,S,D|Dv]; zeros for a query that sees nothing."""
    return attend_and_save(rules, q, k, v, bias, sinks, places)[0]


def attend_and_save(rules: Rules, q, k, v, bias, sinks, places: Places) -> tuple[jax.Array, tuple]:
    """The result, and what its gradient needs."""
    # A scan over layers would compute beforehand, and keep, what depends on places alone: the masks of all blocks.
    q, places = jax.lax.optimization_barrier((q, places))
    out, lse = ring_blocks.attend(rules, q, k, v, bias, places)
    out, lse = with_sinks(jnp.where((lse > EMPTY)[..., None], out, 0.0), lse, sinks)
    out = out.astype(v.dtype)
    return out, (q, k, v, bias, sinks, places, out, lse)


def attend_backward(rules: Rules, saved: tuple, grad: jax.Array) -> tuple:
    """Gradients of q, k, v, bias and sinks."""
    q, k, v, bias, sinks, places, out, lse = saved
    grad, places = jax.lax.optimization_barrier((grad, places))
    own = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    # For a query that saw nothing, a large divisor: its probabilities are zeros here as they were there.
    divisor = jnp.where(lse > EMPTY, lse, -HIDDEN)
    g_q, g_k, g_v, g_bias = ring_blocks.gradients(rules, q, k, v, bias, places, grad, divisor, own)
    g_sinks = None if sinks is None else sinks_gradient(sinks, lse, own).astype(sinks.dtype)
    g_bias = None if bias is None else g_bias.astype(bias.dtype)
    return g_q.astype(q.dtype), g_k.astype(k.dtype), g_v.astype(v.dtype), g_bias, g_sinks, None


attend.defvjp(attend_and_save, attend_backward)
