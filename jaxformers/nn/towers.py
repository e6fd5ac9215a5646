"""Towers: encoders of texts and of images whose pooled outputs can be compared."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context, recording
from jaxformers.core.mask import Mask
from jaxformers.core.outputs import BaseModelOutput
from jaxformers.core.sharding import constrain
from jaxformers.nn.embed import Embed
from jaxformers.nn.inputs import decoder_context, token_count
from jaxformers.nn.param import Normal, param
from jaxformers.nn.patch import PatchEmbed, Size, read_pixels
from jaxformers.nn.resize import resize_bicubic


class TextTower(nn.Module):
    """words + positions -> layers -> norm -> pooler(x, ids). hidden_states are those before the norm."""

    embed: Embed
    positions: Embed
    layers: nn.Module
    norm: nn.Module
    pooler: nn.Module
    causal: bool = True

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {"input_ids": jax.ShapeDtypeStruct((1, 2), jnp.int32)}

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> BaseModelOutput:
        length = token_count(input_ids, None)
        if length > self.positions.size:
            raise ValueError(f"input_ids have length {length}; the model has {self.positions.size} positions")
        record = recording(hidden_states=output_hidden_states, attentions=output_attentions)
        ctx, _ = decoder_context(
            length, attention_mask, position_ids, None, causal=self.causal, train=train, record=record
        )
        x = self.embed(input_ids) + self.positions(ctx.positions)
        x, _, records = self.layers(constrain(x, "batch", "length", None), ctx)
        x = self.norm(x)
        return BaseModelOutput(last_hidden_state=x, pooler_output=self.pooler(x, input_ids), **records)


class EosPooler(nn.Module):
    """The hidden state of the first end-of-text token; with `eos` None, of the token with the highest id."""

    eos: int | None

    def __call__(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        at = jnp.argmax(ids if self.eos is None else ids == self.eos, axis=-1)
        return jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]


class LastPooler(nn.Module):
    """project(last token), which may be padding."""

    project: nn.Module

    def __call__(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        return self.project(x[:, -1])


class FlatPositions(nn.Module):
    """x [B,T,D] + table [extra + h*w, D], a learned vector for each patch of a grid and `extra` tokens before them."""

    grid: Size
    extra: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, grid: Size | None = None) -> jax.Array:
        """Add the table, resized to `grid` unless it is None. Raises ValueError for a table that is no square."""
        count, width = self.grid[0] * self.grid[1], x.shape[-1]
        table = param(self, "table", Normal(), (count + self.extra, width), (None, "embed"))
        side = math.isqrt(count)
        if grid is not None and grid != (side, side):
            if side * side != count:
                raise ValueError(f"positions on a grid of {self.grid} are not square and cannot be resized to {grid}")
            patches = resize_bicubic(table[self.extra :].reshape(1, side, side, width), grid).reshape(-1, width)
            table = jnp.concatenate([table[: self.extra], patches])
        return x + table


class ImageTower(nn.Module):
    """class token and patches + positions -> stem -> layers -> norm -> pooler; parts that a family lacks are None."""

    patches: PatchEmbed
    positions: FlatPositions
    layers: nn.Module
    image: Size
    cls: nn.Module | None = None
    stem: nn.Module | None = None
    norm: nn.Module | None = None
    pooler: nn.Module | None = None
    channels: int = 3

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {"pixel_values": jax.ShapeDtypeStruct((1, self.channels, *self.image), jnp.float32)}

    def embed(self, pixel_values: jax.Array, resize: bool) -> jax.Array:
        """Images [B,C,H,W] as tokens [B,T,D]."""
        x = read_pixels(pixel_values, self.channels)
        if not resize and x.shape[1:3] != self.image:
            raise ValueError(
                f"images are {x.shape[1:3]}, the model's {self.image}; pass interpolate_pos_encoding=True to allow it"
            )
        x = self.patches(x)
        grid = (x.shape[1], x.shape[2])
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        if self.cls is not None:
            first = jnp.broadcast_to(self.cls(), (x.shape[0], 1, x.shape[-1])).astype(x.dtype)
            x = jnp.concatenate([first, x], axis=1)
        x = self.positions(x, grid if resize else None)
        return x if self.stem is None else self.stem(x)

    def __call__(
        self,
        pixel_values: jax.Array,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> BaseModelOutput:
        x = self.embed(pixel_values, interpolate_pos_encoding)
        record = recording(hidden_states=output_hidden_states, attentions=output_attentions)
        ctx = Context.plain(x.shape[1], mask=Mask(), train=train, record=record)
        x, _, records = self.layers(constrain(x, "batch", "length", None), ctx)
        x = x if self.norm is None else self.norm(x)
        pooled = None if self.pooler is None else self.pooler(x)
        return BaseModelOutput(last_hidden_state=x, pooler_output=pooled, **records)


class NormedFirst(nn.Module):
    """norm(first token)."""

    norm: nn.Module

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(x[:, 0])
