"""StagedEncoder: a stem and stages of ever smaller and deeper feature maps, as convolutional networks have."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.outputs import BaseModelOutput
from jaxformers.nn.patch import Size, read_pixels
from jaxformers.nn.stack import Stack


def channels_first(x: jax.Array) -> jax.Array:
    """[B,H,W,C] -> [B,C,H,W], as transformers returns feature maps."""
    return x.transpose(0, 3, 1, 2)


class Stage(nn.Module):
    """down -> layers: blocks at one resolution, after a module that reduces it."""

    layers: Stack
    down: nn.Module | None = None

    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        x = x if self.down is None else self.down(x)
        return self.layers(x, ctx)[0]


class MeanPool(nn.Module):
    """norm(mean over the image), [B,C], or [B,C,1,1] with `keep`."""

    norm: nn.Module | None = None
    keep: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.mean(axis=(1, 2))
        x = x if self.norm is None else self.norm(x)
        return x[:, :, None, None] if self.keep else x


class StagedEncoder(nn.Module):
    """stem -> stages -> pooler; hidden_states are the stem's output and each stage's, [B,C,h,w]."""

    stem: nn.Module
    stages: tuple[Stage, ...]
    pooler: nn.Module | None = None
    channels: int = 3
    image: Size = (64, 64)  # only to initialise with

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {"pixel_values": jax.ShapeDtypeStruct((1, self.channels, *self.image), jnp.float32)}

    def maps(
        self, pixel_values: jax.Array, output_attentions: bool = False, train: bool = False
    ) -> tuple[list[jax.Array], tuple]:
        """The stem's output and each stage's, [B,h,w,C], and no attentions, for convolutions have none."""
        ctx = Context.plain(1, train=train)
        out = [self.stem(read_pixels(pixel_values, self.channels))]
        for stage in self.stages:
            out.append(stage(out[-1], ctx))
        return out, ()

    def __call__(
        self,
        pixel_values: jax.Array,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> BaseModelOutput:
        """Encode images [B,C,H,W]. Convolutions have no attentions to return."""
        maps, _ = self.maps(pixel_values, train=train)
        return BaseModelOutput(
            last_hidden_state=channels_first(maps[-1]),
            pooler_output=None if self.pooler is None else self.pooler(maps[-1]),
            hidden_states=tuple(map(channels_first, maps)) if output_hidden_states else None,
        )
