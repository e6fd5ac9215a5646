"""A block with a convolution beside it: what some first layers use to see a token's neighbours (DeBERTa)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.inputs import refuse_segments
from jaxformers.nn.param import ZEROS, Normal, dropout, param
from jaxformers.nn.residual import Block
from jaxformers.ops.dot import precision


def hide_padding(x: jax.Array, ctx: Context) -> jax.Array:
    """Zeros at padding. x [B,T,D]."""
    return x if ctx.mask.keys is None else jnp.where(ctx.mask.keys[..., None], x, jnp.zeros_like(x))


class TokenConv(nn.Module):
    """A convolution over tokens [B,T,D] with as many outputs; the kernel is [k, D / groups, D]."""

    kernel: int
    groups: int = 1
    init: Callable = Normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        kernel = param(self, "kernel", self.init, (self.kernel, width // self.groups, width), (None, None, "conv"))
        side = (self.kernel - 1) // 2
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1,),
            ((side, side),),
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.groups,
            precision=precision(x, kernel),
        )
        return y + param(self, "bias", ZEROS, (width,), ("conv",))


class ConvBlock(Block):
    """norm(block(x) + act(conv(x))), zero at padding."""

    conv: nn.Module | None = None
    norm: nn.Module | None = None
    act: Callable = jnp.tanh
    dropout: float = 0.0

    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        refuse_segments(ctx, "a convolution over neighbouring tokens")
        y, state, records = super().__call__(x, ctx, state)
        seen = hide_padding(self.conv(x), ctx)
        y = self.norm(y + self.act(dropout(self, seen, self.dropout, ctx.train)))
        return hide_padding(y, ctx), state, records
