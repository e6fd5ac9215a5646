"""Positions of the places of an image that attention adds to queries and keys (DETR)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.nn.embed import Embed
from jaxformers.nn.fans import UnitUniform

ROWS = 50  # and as many columns, as DETR's checkpoints have


class SineGrid(nn.Module):
    """Sines and cosines of the row and of the column, each counted over real places and scaled to a full turn."""

    width: int  # half of it for rows, half for columns
    temperature: float = 10000.0

    def __call__(self, real: jax.Array) -> jax.Array:
        """[B,h*w,width] for a mask of real places Bool [B,h,w]."""
        half = self.width // 2
        steps = self.temperature ** (2 * (jnp.arange(half, dtype=jnp.float32) // 2) / half)

        def waves(axis: int) -> jax.Array:
            at = jnp.cumsum(real.astype(jnp.float32), axis=axis)
            last = jax.lax.slice_in_dim(at, at.shape[axis] - 1, at.shape[axis], axis=axis)
            angles = (at / (last + 1e-6) * (2 * math.pi))[..., None] / steps
            pairs = jnp.stack([jnp.sin(angles[..., 0::2]), jnp.cos(angles[..., 1::2])], axis=-1)
            return pairs.reshape(*real.shape, half)

        return jnp.concatenate([waves(1), waves(2)], axis=-1).reshape(real.shape[0], -1, self.width)


class LearnedGrid(nn.Module):
    """A vector for each column beside one for each row."""

    width: int

    @nn.compact
    def __call__(self, real: jax.Array) -> jax.Array:
        """[B,h*w,width] for a mask of real places Bool [B,h,w]. Raises ValueError when the grid is too large."""
        b, h, w = real.shape
        if max(h, w) > ROWS:
            raise ValueError(f"a feature map of {h} by {w} is larger than the {ROWS} learned rows and columns")
        half = self.width // 2
        column = Embed(ROWS, half, (None, "embed"), UnitUniform(), name="column")(jnp.arange(w))
        row = Embed(ROWS, half, (None, "embed"), UnitUniform(), name="row")(jnp.arange(h))
        both = [jnp.broadcast_to(column[None], (h, w, half)), jnp.broadcast_to(row[:, None], (h, w, half))]
        grid = jnp.concatenate(both, axis=-1).reshape(1, h * w, self.width)
        return jnp.broadcast_to(grid, (b, h * w, self.width))
