"""Rotary position specs: plain data that turn positions into angles, one class for each way to stretch the context.

A spec is called with q or k [B,T,H,D] and positions [1|B,T] and returns it rotated.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.ops.rope import rotate_halves


@dataclass(frozen=True)
class Rope:
    """Rotation by fixed frequencies; `scale` multiplies cosine and sine (YaRN, LongRoPE)."""

    frequencies: tuple[float, ...]
    scale: float = 1.0
    rotate: Callable = rotate_halves

    def angles(self, positions: jax.Array) -> jax.Array:
        """Angles [1|B,T,R/2] in float32."""
        return positions[..., None].astype(jnp.float32) * jnp.asarray(self.frequencies, jnp.float32)

    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        return self.rotate(x, self.angles(positions), self.scale)


@dataclass(frozen=True)
class LongRope(Rope):
    """LongRoPE: `long` frequencies once the sequence is longer than `original` positions. Source: arXiv:2402.13753."""

    long: tuple[float, ...] = ()
    original: int = 0

    def angles(self, positions: jax.Array) -> jax.Array:
        beyond = jnp.max(positions) + 1 > self.original
        table = jnp.where(beyond, jnp.asarray(self.long, jnp.float32), jnp.asarray(self.frequencies, jnp.float32))
        return positions[..., None].astype(jnp.float32) * table


@dataclass(frozen=True)
class DynamicRope(Rope):
    """Dynamic NTK: beyond `original` positions the base grows with the length seen."""

    base: float = 10000.0
    factor: float = 1.0
    original: int = 0

    def angles(self, positions: jax.Array) -> jax.Array:
        dim = 2 * len(self.frequencies)
        length = jnp.maximum(jnp.max(positions) + 1, self.original).astype(jnp.float32)
        grown = self.base * (self.factor * length / self.original - (self.factor - 1)) ** (dim / (dim - 2))
        table = 1.0 / grown ** (jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
        table = jnp.where(length > self.original, table, jnp.asarray(self.frequencies, jnp.float32))
        return positions[..., None].astype(jnp.float32) * table


def inverse_frequencies(theta: float, dim: int) -> np.ndarray:
    """theta ** (-2i / dim) for i in 0 .. dim/2, in float32."""
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (np.float32(1.0) / np.float32(theta) ** exponent).astype(np.float32)
