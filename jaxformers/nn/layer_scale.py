"""LayerScale: a learned factor for each feature of a branch. Source: arXiv:2103.17239."""

import jax
from flax import linen as nn

from jaxformers.nn.param import Constant, param


class LayerScale(nn.Module):
    """x * gain."""

    start: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * param(self, "gain", Constant(self.start), (x.shape[-1],), (None,))
