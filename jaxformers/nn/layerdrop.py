"""LayerDrop: blocks that training skips at random."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.residual import Block


class LayerDropBlock(Block):
    """A block that training leaves out, for the whole batch, with probability `rate`. Source: arXiv:1909.11556."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        out, state, records = super().__call__(x, ctx, state)
        if ctx.train and self.rate > 0.0:
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate)
            out = jnp.where(keep, out, x)
        return out, state, records
