"""Rotary position embedding, applied to q or k [B,T,H,D]. Source: arXiv:2104.09864."""

import jax
import jax.numpy as jnp


def rotate_halves(x: jax.Array, angles: jax.Array, scale: float | jax.Array = 1.0) -> jax.Array:
    """Rotate pairs (i, i + R/2) of the first R = 2 * angles.shape[-1] features. angles [1|B,T,R/2], float32."""
    half = angles.shape[-1]
    cos, sin = rotation(angles, scale)
    h = x.astype(jnp.float32)
    a, b, rest = h[..., :half], h[..., half : 2 * half], h[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1).astype(x.dtype)


def rotate_pairs(x: jax.Array, angles: jax.Array, scale: float | jax.Array = 1.0) -> jax.Array:
    """Rotate neighbours (2i, 2i + 1) of the first R = 2 * angles.shape[-1] features. angles [1|B,T,R/2], float32."""
    size = 2 * angles.shape[-1]
    cos, sin = rotation(angles, scale)
    h = x[..., :size].astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = h[..., 0], h[..., 1]
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(*x.shape[:-1], size)
    return jnp.concatenate([turned.astype(x.dtype), x[..., size:]], axis=-1)


def rotation(angles: jax.Array, scale: float | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine [1|B,T,1,R/2], with an axis for heads."""
    return jnp.cos(angles)[:, :, None] * scale, jnp.sin(angles)[:, :, None] * scale
