"""Linear: y = x W + b."""

from collections.abc import Callable

import jax
from flax import linen as nn

from jaxformers.nn.param import ZEROS, Normal, param
from jaxformers.ops.dot import dot


class Linear(nn.Module):
    """y = x W + b, with W [in, features]."""

    features: int
    bias: bool = False
    axes: tuple[str | None, str | None] = (None, None)
    init: Callable = Normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = dot(x, param(self, "kernel", self.init, (x.shape[-1], self.features), self.axes))
        if self.bias:
            y = y + param(self, "bias", ZEROS, (self.features,), self.axes[1:])
        return y
