"""The pieces of ConvNeXt. Source: arXiv:2201.03545."""

from collections.abc import Callable

import jax
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.conv import Conv
from jaxformers.nn.linear import Linear
from jaxformers.nn.patch import PatchEmbed, Size


class WideConv(nn.Module):
    """fc2(act(fc1(norm(depthwise(x))))), with windows of seven and four times the width inside."""

    act: Callable
    norm: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state=None):
        width = x.shape[-1]
        h = self.norm(Conv(width, 7, padding=3, groups=width, bias=True, name="depthwise")(x))
        h = self.act(Linear(4 * width, True, ("embed", "mlp"), name="fc1")(h))
        return Linear(width, True, ("mlp", "embed"), name="fc2")(h), state, {}


class PatchThenNorm(nn.Module):
    """The stem."""

    features: int
    patch: Size
    norm: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(PatchEmbed(self.features, self.patch, name="patches")(x))


class NormThenPatch(nn.Module):
    """Between stages: half the height and width."""

    features: int
    norm: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return PatchEmbed(self.features, (2, 2), name="patches")(self.norm(x))
