"""Convolutions, pooling and batch normalisation on images [B,H,W,C], with PyTorch's padding."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.nn.param import ONES, ZEROS, param
from jaxformers.ops.conv import conv2d


@dataclass(frozen=True)
class FanOut:
    """Normal values with variance 2 / (outputs * window), for kernels [kh,kw,in,out]. Source: arXiv:1502.01852."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        fan = shape[0] * shape[1] * shape[3]
        return jax.random.normal(key, shape, dtype) * jnp.asarray((2 / fan) ** 0.5, dtype)


@dataclass(frozen=True)
class KaimingUniform:
    """Uniform in +-sqrt(3 / fan in)."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        bound = (3.0 / math.prod(shape[:-1])) ** 0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)


@dataclass(frozen=True)
class ScaledXavier:
    """Uniform in +-gain sqrt(6 / (fan in + fan out)) for kernels [in,out]."""

    gain: float = 1.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        bound = self.gain * (6.0 / sum(shape)) ** 0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)


class Conv(nn.Module):
    """A convolution with square windows; `padding` zeros on every side; groups == channels is depthwise."""

    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False
    dilation: int = 1
    init: Callable = FanOut()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = param(self, "kernel", self.init, shape, (None, None, None, "conv"))
        options = {"stride": self.stride, "padding": self.padding, "groups": self.groups, "dilation": self.dilation}
        y = conv2d(x.astype(kernel.dtype), kernel, **options)
        return y + param(self, "bias", ZEROS, (self.features,), ("conv",)) if self.bias else y


class BatchNorm(nn.Module):
    """(x - running mean) / running std * scale + bias.

    The running statistics are parameters that no gradient reaches: fine-tuning keeps them. frozen: nor does one reach
    scale and bias, as in the backbones of detection models.
    """

    eps: float = 1e-5
    frozen: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def read(name: str, init: Callable) -> jax.Array:
            return param(self, name, init, (x.shape[-1],), (None,)).astype(jnp.float32)

        scale, bias = read("scale", ONES), read("bias", ZEROS)
        if self.frozen:
            scale, bias = jax.lax.stop_gradient((scale, bias))
        mean, var = jax.lax.stop_gradient((read("running_mean", ZEROS), read("running_var", ONES)))
        h = (x.astype(jnp.float32) - mean) * (jax.lax.rsqrt(var + self.eps) * scale) + bias
        return h.astype(x.dtype)


def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """The largest value in each window; what lies outside the image does not count."""
    sides = (padding, padding)
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), ((0, 0), sides, sides, (0, 0))
    )


class GroupNorm(nn.Module):
    """(x - mean) / std * scale + bias over each image and group of features [B,H,W,C]. Source: arXiv:1803.08494."""

    groups: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        h = x.astype(jnp.float32).reshape(x.shape[0], -1, self.groups, c // self.groups)
        h = h - h.mean(axis=(1, 3), keepdims=True)
        h = h * jax.lax.rsqrt(jnp.square(h).mean(axis=(1, 3), keepdims=True) + self.eps)
        h = h.reshape(x.shape) * param(self, "scale", ONES, (c,), (None,)).astype(jnp.float32)
        return (h + param(self, "bias", ZEROS, (c,), (None,)).astype(jnp.float32)).astype(x.dtype)
