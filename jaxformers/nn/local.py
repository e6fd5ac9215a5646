"""Attention that looks both ways within a fixed distance."""

from jaxformers.core.context import Context
from jaxformers.core.mask import Mask
from jaxformers.nn.attention import Attention


class LocalAttention(Attention):
    """Attention over keys at most `distance` slots away on either side."""

    distance: int = 64

    def visible(self, ctx: Context) -> Mask:
        return ctx.mask.around(self.distance)
