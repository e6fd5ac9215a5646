"""ALiBi: scores grow with the place of the key, by a slope of its own for each head. Source: arXiv:2108.12409.

A spec is called with the context and returns the bias [1|B,H,1,S]. The softmax of one query does not change when all
its scores move by the same amount, so the place of the query need not be subtracted.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.context import Context
from jaxformers.nn.inputs import places_in_segments


def slopes(heads: int) -> np.ndarray:
    """The slope of each head: powers of 2 ** (-8 / n), n the power of two below `heads`, and odd powers of its root."""
    whole = 2 ** math.floor(math.log2(heads))
    out = np.float32(2 ** -(2 ** -(math.log2(whole) - 3))) ** np.arange(1, whole + 1, dtype=np.float32)
    if whole == heads:
        return out
    base = np.float32(2 ** -(2 ** -(math.log2(2 * whole) - 3)))
    return np.concatenate([out, base ** np.arange(1, 2 * (heads - whole) + 1, 2, dtype=np.float32)])


def key_places(ctx: Context) -> jax.Array:
    """How many real keys of its text come before each key, Int [1|B,S]; 0 for padding."""
    keys = ctx.mask.keys
    if ctx.mask.k_segments is not None:
        return places_in_segments(ctx.mask.k_segments)
    if keys is None:
        return jnp.arange(ctx.slots.shape[0])[None]
    real = keys.astype(jnp.int32)
    return (jnp.cumsum(real, axis=1) - 1) * real


@dataclass(frozen=True)
class Alibi:
    """scale * slope * place of the key among the real ones."""

    heads: int
    scale: float = 1.0

    def __call__(self, ctx: Context) -> jax.Array:
        places = key_places(ctx).astype(jnp.float32)
        return jnp.asarray(slopes(self.heads))[:, None, None] * places[:, None, None] * self.scale


@dataclass(frozen=True)
class RoundedAlibi(Alibi):
    """ALiBi whose slopes, places and products are rounded to bfloat16 before the scale, in any precision (Falcon)."""

    def __call__(self, ctx: Context) -> jax.Array:
        slope = to_bfloat16(jnp.asarray(slopes(self.heads)))
        places = to_bfloat16(key_places(ctx).astype(jnp.float32))
        return to_bfloat16(slope[:, None, None] * places[:, None, None]) * self.scale


def to_bfloat16(x: jax.Array) -> jax.Array:
    """Round as bfloat16 does and stay in float32; a pair of casts might be optimised away."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
