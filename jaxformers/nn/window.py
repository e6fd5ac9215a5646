"""Attention inside square windows that are shifted in every other layer. Source: arXiv:2103.14030."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.mask import Mask
from jaxformers.nn.attention import attend, split_heads
from jaxformers.nn.linear import Linear
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import ZEROS, param

OTHER_REGION = -100.0  # added to scores across the seam of a shifted image


def relative_index(window: int) -> np.ndarray:
    """Row of the bias table for each pair of places in a window: [W*W, W*W]."""
    rows, columns = np.divmod(np.arange(window * window), window)
    down = rows[:, None] - rows[None, :] + window - 1
    right = columns[:, None] - columns[None, :] + window - 1
    return down * (2 * window - 1) + right


def windows(x: jax.Array, size: int) -> jax.Array:
    """[B,H,W,C] -> [B*windows, size*size, C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, size * size, c)


def unwindows(x: jax.Array, size: int, height: int, width: int) -> jax.Array:
    """Undo `windows`."""
    x = x.reshape(-1, height // size, width // size, size, size, x.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, height, width, x.shape[-1])


def seam_bias(height: int, width: int, size: int, shift: int) -> np.ndarray:
    """What keeps places apart that only the shift made neighbours: [windows, size*size, size*size]."""

    def regions(length: int) -> np.ndarray:
        at = np.arange(length)
        return (at >= length - size).astype(int) + (at >= length - shift)

    image = regions(height)[:, None] * 3 + regions(width)[None, :]
    cut = image.reshape(height // size, size, width // size, size).transpose(0, 2, 1, 3).reshape(-1, size * size)
    return np.where(cut[:, :, None] == cut[:, None, :], 0.0, OTHER_REGION).astype(np.float32)


class WindowAttention(nn.Module):
    """Attention inside windows of an image [B,H,W,C], with a learned bias for each offset between two places.

    shift: how far the image is rolled before it is cut. fit: an image of a window's size is not rolled, and a smaller
    one is refused; otherwise it is padded.
    """

    heads: int
    window: int
    shift: int = 0
    bias: bool = True
    fit: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state=None):
        b, h, w, c = x.shape
        size, shift = self.window, self.shift
        if self.fit and min(h, w) < size:
            raise ValueError(f"a feature map of {h} by {w} is smaller than the window, {size}; give larger images")
        if self.fit and min(h, w) == size:
            shift = 0
        x = jnp.pad(x, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
        height, width = x.shape[1:3]
        bias = jnp.zeros(()) if shift == 0 else jnp.asarray(seam_bias(height, width, size, shift))
        y, records = self.mix(windows(jnp.roll(x, (-shift, -shift), (1, 2)), size), bias, ctx)
        y = jnp.roll(unwindows(y, size, height, width), (shift, shift), (1, 2))
        return y[:, :h, :w], state, records

    def mix(self, x: jax.Array, seams: jax.Array, ctx: Context):
        """Attention among the places of each window [N,W*W,C]; seams [windows,W*W,W*W] or a zero."""
        c = x.shape[-1]
        q, k, v = (
            split_heads(Linear(c, self.bias, ("embed", "heads"), name=name)(x), self.heads)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        table = param(self, "offsets", ZEROS, ((2 * self.window - 1) ** 2, self.heads), (None, "heads"))
        bias = table[relative_index(self.window)].transpose(2, 0, 1)[None].astype(jnp.float32)
        if seams.ndim:
            bias = bias + jnp.tile(seams, (x.shape[0] // seams.shape[0], 1, 1))[:, None]
        slots = jnp.arange(x.shape[1])
        out, records = attend(
            self,
            q,
            k,
            v,
            Mask(),
            ctx,
            rate=self.dropout,
            name="attentions",
            q_slots=slots,
            k_slots=slots,
            scale=(c // self.heads) ** -0.5,
            bias=bias,
        )
        return Linear(c, True, ("heads", "embed"), name="o_proj")(out.reshape(*x.shape)), records


class PatchMerge(nn.Module):
    """reduce(norm(two by two places side by side)): half the height and width, twice the features."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        # Columns vary slower than rows, as the checkpoints were trained.
        x = jnp.concatenate([x[:, i::2, j::2] for j in range(2) for i in range(2)], axis=-1)
        return Linear(2 * c, axes=(None, "embed"), name="reduce")(LayerNorm(1e-5, name="norm")(x))
