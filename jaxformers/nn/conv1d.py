"""Convolution over time."""

from collections.abc import Callable

import jax
from flax import linen as nn

from jaxformers.nn.fans import KaimingNormal
from jaxformers.nn.param import ZEROS, param
from jaxformers.ops.dot import precision


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, groups: int = 1, dilation: int = 1
) -> jax.Array:
    """x [B,T,C] by kernel [width, C / groups, features], with `padding` zeros at both ends."""
    return jax.lax.conv_general_dilated(
        x.astype(kernel.dtype),
        kernel,
        (stride,),
        [(padding, padding)],
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
        precision=precision(x, kernel),
    )


class Conv1d(nn.Module):
    """[B,T,C] -> [B,T',features]."""

    features: int
    width: int
    stride: int = 1
    padding: int = 0
    bias: bool = True
    init: Callable = KaimingNormal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.width, x.shape[-1], self.features)
        kernel = param(self, "kernel", self.init, shape, (None, None, "conv"))
        y = convolve(x, kernel, stride=self.stride, padding=self.padding)
        return y + param(self, "bias", ZEROS, (self.features,), ("conv",)) if self.bias else y
