"""Resizing grids as PyTorch does: one small matrix for each axis."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.ops.dot import einsum


def bicubic_matrix(new: int, old: int) -> np.ndarray:
    """Weights [new, old] of PyTorch's bicubic interpolation: a = -0.75, clamped edges, corners not aligned."""
    a = -0.75
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    floor = np.floor(at).astype(int)
    out = np.zeros((new, old))
    for tap in range(-1, 3):
        far = np.abs(at - floor - tap)
        near = ((a + 2) * far - (a + 3)) * far * far + 1
        away = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
        np.add.at(out, (np.arange(new), np.clip(floor + tap, 0, old - 1)), np.where(far <= 1, near, away))
    return out.astype(np.float32)


def nearest(new: int, old: int) -> np.ndarray:
    """Which old place each new one takes, as PyTorch's "nearest"."""
    return np.minimum((np.arange(new) * np.float32(old / new)).astype(int), old - 1)


def resize_bicubic(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize [..., H, W, C] to `size`, computed in float32."""
    rows, columns = bicubic_matrix(size[0], x.shape[-3]), bicubic_matrix(size[1], x.shape[-2])
    out = einsum("ah,...hwc->...awc", jnp.asarray(rows), x.astype(jnp.float32))
    return einsum("bw,...awc->...abc", jnp.asarray(columns), out).astype(x.dtype)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize [B,H,W,...] to `size`, each new place taking the value of one old."""
    return x[:, nearest(size[0], x.shape[1])][:, :, nearest(size[1], x.shape[2])]
