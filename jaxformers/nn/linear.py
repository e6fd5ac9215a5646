"""Linear: y = x W^T + b, with W as PyTorch stores it.

The matrix is kept [out, in]: a checkpoint is then mapped, not turned around, and turning costs several times what
copying does. XLA contracts either axis at the same speed.
"""

from collections.abc import Callable

import jax
from flax import linen as nn

from jaxformers.core.qtensor import QTensor
from jaxformers.nn.low_rank import low_rank, low_rank_factors
from jaxformers.nn.param import ZEROS, Normal, param
from jaxformers.ops.dot import dot_transposed
from jaxformers.ops.quantized_dot import quantized_dot


class Linear(nn.Module):
    """y = x W^T + b, with W [features, in], and what an adapter adds. axes: the logical names of (in, features)."""

    features: int
    bias: bool = False
    axes: tuple[str | None, str | None] = (None, None)
    init: Callable = Normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = param(self, "weight", self.init, (self.features, x.shape[-1]), self.axes[::-1])
        y = quantized_dot(x, weight) if isinstance(weight, QTensor) else dot_transposed(x, weight)
        if self.bias:
            y = y + param(self, "bias", ZEROS, (self.features,), self.axes[1:])
        return low_rank(self, x, y, self.axes)

    def factors(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """h, W and b of which the output is h W^T + b, for who multiplies in another way; the weights must be there."""
        bias = nn.meta.unbox(self.get_variable("params", "bias")) if self.bias else None
        weight = nn.meta.unbox(self.get_variable("params", "weight"))
        weight = weight.dequantize(x.dtype) if isinstance(weight, QTensor) else weight
        return *low_rank_factors(self, x, weight), bias
