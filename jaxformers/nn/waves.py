"""Raw audio in: convolutions that turn samples into frames, and positions that come from a convolution."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.nn.conv1d import Conv1d, convolve
from jaxformers.nn.fans import TorchUniform
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import ONES, ZEROS, Constant, dropout, param


class TimeNorm(nn.Module):
    """Each channel of x [B,T,C] normalised over time: a group norm with a group for each channel."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = param(self, "scale", ONES, (x.shape[-1],), (None,)).astype(jnp.float32)
        bias = param(self, "bias", ZEROS, (x.shape[-1],), (None,)).astype(jnp.float32)
        h = x.astype(jnp.float32)
        h = h - jnp.mean(h, axis=1, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=1, keepdims=True) + self.eps)
        return (h * scale + bias).astype(x.dtype)


class WaveBlock(nn.Module):
    """act(norm(conv(x)))."""

    conv: Conv1d
    act: Callable
    norm: nn.Module | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return self.act(x if self.norm is None else self.norm(x))


class WaveStem(nn.Module):
    """Samples [B,samples] through convolutions to frames [B,T,C]."""

    blocks: tuple[WaveBlock, ...]

    @property
    def shortest(self) -> int:
        """How many samples make one frame."""
        count = 1
        for block in reversed(self.blocks):
            count = (count - 1) * block.conv.stride + block.conv.width
        return count

    def frames(self, samples: jax.Array) -> jax.Array:
        """How many frames come of so many samples."""
        for block in self.blocks:
            samples = (samples - block.conv.width) // block.conv.stride + 1
        return samples

    def __call__(self, samples: jax.Array) -> jax.Array:
        if samples.ndim != 2 or samples.shape[1] < self.shortest:
            raise ValueError(
                f"input_values have shape {samples.shape}; expected [B,samples] with at least {self.shortest} samples"
            )
        x = samples[:, :, None]
        for block in self.blocks:
            x = block(x)
        return x


class FrameProjection(nn.Module):
    """dropout(project(norm(x))), and norm(x)."""

    norm: nn.Module
    project: Linear
    dropout: float = 0.0

    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        normed = self.norm(x)
        return dropout(self, self.project(normed), self.dropout, train), normed


class ConvPositions(nn.Module):
    """act(conv(x)), the kernel being gain * direction / |direction| for each tap. Source: arXiv:1904.11660."""

    width: int
    groups: int
    act: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = x.shape[-1]
        inner = size // self.groups
        shape = (self.width, inner, size)
        v = param(self, "kernel", TorchUniform(self.width * inner), shape, (None, None, "conv"))
        # What the norms of a fresh kernel's taps come to.
        length = Constant((size / (3 * self.width)) ** 0.5)
        gain = param(self, "gain", length, (1, 1, self.width), (None, None, None))
        bias = param(self, "bias", ZEROS, (size,), ("conv",))
        norm = jnp.sqrt(jnp.sum(jnp.square(v), axis=(1, 2), keepdims=True))
        kernel = v * (gain.reshape(-1, 1, 1) / norm)
        y = convolve(x, kernel, padding=self.width // 2, groups=self.groups) + bias
        # An even kernel makes one frame too many.
        return self.act(y[:, : x.shape[1]])


class FrameAdapter(nn.Module):
    """Frames made fewer: norm(project(x)) where the width changes, then gated convolutions."""

    convs: tuple[Conv1d, ...]
    project: nn.Module | None = None
    norm: nn.Module | None = None

    def frames(self, count: jax.Array) -> jax.Array:
        """How many frames are left of `count`, as transformers reckons it for masks."""
        for conv in self.convs:
            count = (count - 1) // conv.stride + 1
        return count

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.project is not None and self.norm is not None:
            x = self.norm(self.project(x))
        for conv in self.convs:
            value, gate = jnp.split(conv(x), 2, axis=-1)
            x = value * jax.nn.sigmoid(gate)
        return x
