"""Attention that looks both ways within a fixed distance."""

import jax

from jaxformers.core.context import Context
from jaxformers.nn.attention import Attention


class LocalAttention(Attention):
    """Attention over keys at most `distance` slots away on either side."""

    distance: int = 64

    def __call__(self, x: jax.Array, ctx: Context, state=None):
        return super().__call__(x, ctx.replace(mask=ctx.mask.around(self.distance)), state)
