"""Biases that a checkpoint holds and its model does not add."""

import jax
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.sharding import constrain
from jaxformers.nn.linear import Linear
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.param import ZEROS, dropout, param


class DormantBias(nn.Module):
    """x itself; the bias is kept only so that the checkpoint can be written back whole."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        param(self, "bias", ZEROS, (x.shape[-1],), (None,))
        return x


class HalfBiasedMlp(Mlp):
    """fc2(act(fc1(x))), with a bias in fc1 alone."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state=None):
        h = self.act(Linear(self.width, True, ("embed", "mlp"), name="fc1")(x))
        h = dropout(self, constrain(h, "batch", "length", "mlp"), self.dropout, ctx.train)
        return Linear(x.shape[-1], False, ("mlp", "embed"), name="fc2")(h), state, {}
