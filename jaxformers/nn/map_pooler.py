"""Pooling by attention: one learned query looks at all tokens. Source: arXiv:1810.00825."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.attention import CrossAttention
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.param import Normal, param


class AttentionPooler(nn.Module):
    """y + mlp(norm(y)) where y is the probe's attention over x [B,T,D]; returns [B,D]."""

    heads: int
    mlp: Mlp
    norm: nn.Module
    init: Callable = Normal(1.0)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        probe = param(self, "probe", self.init, (1, 1, width), (None, None, "embed"))
        ctx = Context.plain(1, encoder=x)
        attn = CrossAttention(self.heads, width // self.heads, qkv_bias=True, out_bias=True, name="attn")
        y, _, _ = attn(jnp.broadcast_to(probe, (x.shape[0], 1, width)).astype(x.dtype), ctx)
        out, _, _ = self.mlp(self.norm(y), ctx)
        return (y + out)[:, 0]
