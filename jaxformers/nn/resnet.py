"""The blocks of residual convolutional networks. Source: arXiv:1512.03385."""

from collections.abc import Callable

import jax
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.conv import BatchNorm, Conv, max_pool


class ConvNorm(nn.Module):
    """act(norm(conv(x))), the size kept but for the stride."""

    features: int
    kernel: int
    stride: int = 1
    act: Callable | None = jax.nn.relu
    dilation: int = 1
    frozen: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = self.kernel // 2 * self.dilation
        x = Conv(self.features, self.kernel, self.stride, padding, dilation=self.dilation, name="conv")(x)
        x = BatchNorm(frozen=self.frozen, name="norm")(x)
        return x if self.act is None else self.act(x)


class ResidualConvs(nn.Module):
    """act(convolutions(x) + shortcut(x))."""

    convs: tuple[ConvNorm, ...]
    shortcut: ConvNorm | None = None
    act: Callable = jax.nn.relu

    def __call__(self, x: jax.Array, ctx: Context, state=None):
        h = x
        for conv in self.convs:
            h = conv(h)
        x = x if self.shortcut is None else self.shortcut(x)
        return self.act(h + x), state, {}


class Stem(nn.Module):
    """A wide convolution and a pooling that together divide the size by four."""

    features: int
    act: Callable = jax.nn.relu
    frozen: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ConvNorm(self.features, 7, 2, self.act, frozen=self.frozen, name="embed")(x)
        return max_pool(x, 3, 2, 1)
