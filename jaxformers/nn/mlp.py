"""Feed-forward branches."""

from collections.abc import Callable

import jax
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.sharding import constrain
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import dropout
from jaxformers.nn.remat import keep
from jaxformers.ops.activations import gelu


class GatedMlp(nn.Module):
    """down(act(gate(x)) * up(x)). Source: arXiv:2002.05202."""

    width: int
    act: Callable = jax.nn.silu
    bias: bool = False
    dropout: float = 0.0  # on the hidden values

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state=None):
        def up(name: str) -> jax.Array:
            return Linear(self.width, self.bias, ("embed", "mlp"), name=name)(x)

        h = constrain(self.act(up("gate_proj")) * up("up_proj"), "batch", "length", "mlp")
        h = keep(h, "hidden")
        h = dropout(self, h, self.dropout, ctx.train)
        return Linear(x.shape[-1], self.bias, ("mlp", "embed"), name="down_proj")(h), state, {}


class Mlp(nn.Module):
    """fc2(act(fc1(x)))."""

    width: int
    act: Callable = gelu
    bias: bool = True
    dropout: float = 0.0  # on the hidden values

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state=None):
        h = keep(self.act(Linear(self.width, self.bias, ("embed", "mlp"), name="fc1")(x)), "hidden")
        h = dropout(self, constrain(h, "batch", "length", "mlp"), self.dropout, ctx.train)
        return Linear(x.shape[-1], self.bias, ("mlp", "embed"), name="fc2")(h), state, {}
