"""From pixels to a sequence: patches, a class token, a mask token and positions on a grid."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.nn.param import ZEROS, Normal, dropout, param
from jaxformers.nn.resize import resize_bicubic
from jaxformers.ops.dot import dot

Size = tuple[int, int]


def pair(size: int | tuple[int, ...]) -> Size:
    """(height, width) from what a config says, which may be one number."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def grid_of(image: int | tuple[int, ...], patch: int | tuple[int, ...]) -> Size:
    """How many patches fit along the height and the width."""
    (h, w), (p, q) = pair(image), pair(patch)
    return h // p, w // q


def size_of(x: jax.Array) -> Size:
    """(height, width) of [B,H,W,...]."""
    return x.shape[1], x.shape[2]


def read_pixels(pixel_values: jax.Array, channels: int) -> jax.Array:
    """Pixel values [B,C,H,W] as [B,H,W,C]. Raises ValueError on another rank or number of channels."""
    if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
        raise ValueError(f"pixel_values have shape {pixel_values.shape}; expected [B,{channels},H,W]")
    return pixel_values.transpose(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """A convolution whose windows do not overlap, as one matrix product: [B,H,W,C] -> [B,h,w,width]."""

    width: int
    patch: Size
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        p, q = self.patch
        b, h, w, c = x.shape
        kernel = param(self, "kernel", Normal(), (p, q, c, self.width), (None, None, "pixels", "embed"))
        x = x[:, : h // p * p, : w // q * q].astype(kernel.dtype)
        x = x.reshape(b, h // p, p, w // q, q, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // p, w // q, -1)
        y = dot(x, kernel.reshape(-1, self.width))
        return y + param(self, "bias", ZEROS, (self.width,), ("embed",)) if self.bias else y


class GridPositions(nn.Module):
    """A learned vector for each patch of a grid, and for `extra` tokens before them: x [B,T,D] + table."""

    grid: Size
    extra: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, grid: Size | None = None) -> jax.Array:
        """Add the table, resized to `grid` unless it is None. Raises ValueError for a table that is no square."""
        count = self.grid[0] * self.grid[1]
        shape = (1, count + self.extra, x.shape[-1])
        table = param(self, "table", Normal(), shape, (None, None, "embed"))
        side = math.isqrt(count)
        if grid is not None and grid != (side, side):
            if side * side != count:
                raise ValueError(f"positions on a grid of {self.grid} are not square and cannot be resized to {grid}")
            square = table[:, self.extra :].reshape(1, side, side, -1)
            patches = resize_bicubic(square, grid).reshape(1, -1, x.shape[-1])
            table = jnp.concatenate([table[:, : self.extra], patches], axis=1)
        if table.shape[1] != x.shape[1]:
            raise ValueError(f"{x.shape[1]} tokens for {table.shape[1]} positions; give images of the config's size")
        return x + table


class Token(nn.Module):
    """One learned vector, stored with `rank` axes."""

    width: int
    rank: int = 3

    @nn.compact
    def __call__(self) -> jax.Array:
        shape = (1,) * (self.rank - 1) + (self.width,)
        return param(self, "token", ZEROS, shape, (None,) * (self.rank - 1) + ("embed",))


def masked(x: jax.Array, token: nn.Module | None, where: jax.Array | None) -> jax.Array:
    """Put the mask token where `where` [B,T] is true. Raises ValueError when the model has none."""
    if where is None:
        # Without a mask the token is still a parameter of the model.
        if token is not None:
            token()
        return x
    if token is None:
        raise ValueError("bool_masked_pos needs a mask token, which this model lacks; see the config and the head")
    hidden = where.reshape(where.shape[0], -1, 1).astype(x.dtype)
    return x * (1 - hidden) + token().reshape(1, 1, -1) * hidden


class ImageEmbeddings(nn.Module):
    """dropout(class token and patches + positions). any_size: resize positions to every image without being asked."""

    patches: PatchEmbed
    cls: nn.Module
    positions: GridPositions
    image: Size
    mask: nn.Module | None = None
    dropout: float = 0.0
    any_size: bool = False

    def __call__(
        self, x: jax.Array, where: jax.Array | None = None, resize: bool = False, train: bool = False
    ) -> jax.Array:
        size = size_of(x)
        resize = resize or self.any_size
        if not resize and size != self.image:
            raise ValueError(f"images are {size}, the model's {self.image}; pass interpolate_pos_encoding=True")
        x = self.patches(x)
        grid = size_of(x)
        x = masked(x.reshape(x.shape[0], -1, x.shape[-1]), self.mask, where)
        first = jnp.broadcast_to(self.cls(), (x.shape[0], 1, x.shape[-1])).astype(x.dtype)
        x = self.positions(jnp.concatenate([first, x], axis=1), grid if resize else None)
        return dropout(self, x, self.dropout, train)
