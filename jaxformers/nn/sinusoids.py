"""Position tables of sines and cosines, stored in the checkpoint or computed."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxformers.nn.param import param


def paired_sinusoids(size: int, width: int) -> np.ndarray:
    """Sines in the first half, cosines in the second, wavelengths 10000^(2i/width) (Marian). [size, width]."""
    angles = np.arange(size)[:, None] / np.power(10000.0, 2 * (np.arange(width) // 2) / width)
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1)


def spread_sinusoids(size: int, width: int) -> np.ndarray:
    """Sines in the first half, cosines in the second, wavelengths 1 to 10000 inclusive (Whisper). [size, width]."""
    half = width // 2
    angles = np.arange(size)[:, None] * np.exp(-np.log(10000.0) / (half - 1) * np.arange(half))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@dataclass(frozen=True)
class TableInit:
    """The values of a table, whatever the random key."""

    table: Callable[[int, int], np.ndarray]

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jnp.asarray(self.table(*shape), dtype)


class FixedPositions(nn.Module):
    """table[positions] with a table that is never stored."""

    size: int
    width: int
    table: Callable[[int, int], np.ndarray]

    def __call__(self, positions: jax.Array) -> jax.Array:
        return jnp.take(jnp.asarray(self.table(self.size, self.width), jnp.float32), positions, axis=0)


class StoredPositions(nn.Module):
    """table[positions] with a table that checkpoints store and training leaves alone."""

    size: int
    width: int
    init: Callable[[int, int], np.ndarray]

    @nn.compact
    def __call__(self, positions: jax.Array) -> jax.Array:
        table = param(self, "table", TableInit(self.init), (self.size, self.width), (None, "embed"))
        return jnp.take(jax.lax.stop_gradient(table), positions, axis=0)
