"""Boxes (center x, center y, width, height): their corners, and how well two of them agree."""

import jax
import jax.numpy as jnp


def corners(boxes: jax.Array) -> jax.Array:
    """(left, top, right, bottom) of boxes [...,4]."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([center - size / 2, center + size / 2], axis=-1)


def area(boxes: jax.Array) -> jax.Array:
    """The area of boxes given by corners [...,4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def generalized_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Shared area over that of both, less the part of their hull that neither fills, in [-1, 1]. arXiv:1902.09630.

    Boxes [...,4] by corners; shapes broadcast.
    """
    shared = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2]), 0).prod(axis=-1)
    both = area(a) + area(b) - shared
    hull = (jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])).prod(axis=-1)
    return shared / both - (hull - both) / hull
