"""SetPredictor: an image to a fixed number of objects, by learned queries that attend to its features (DETR)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.context import Context, recording
from jaxformers.core.mask import Mask
from jaxformers.core.outputs import Array, ModelOutput
from jaxformers.core.outputs import Layers as Arrays
from jaxformers.nn.embed import Embed
from jaxformers.nn.inputs import read_attention_mask
from jaxformers.nn.param import dropout
from jaxformers.nn.patch import PatchEmbed, size_of
from jaxformers.nn.resize import resize_nearest
from jaxformers.nn.stack import Layers, Stack, run


@struct.dataclass
class QueryModelOutput(ModelOutput):
    """A vector for each query, and what led to it."""

    last_hidden_state: Array
    decoder_hidden_states: Arrays | None = None
    decoder_attentions: Arrays | None = None
    cross_attentions: Arrays | None = None
    encoder_last_hidden_state: Array | None = None
    encoder_hidden_states: Arrays | None = None
    encoder_attentions: Arrays | None = None
    intermediate_hidden_states: Array | None = None


@struct.dataclass
class Seen:
    """An image's maps of all stages, the last one projected [B,h,w,D], and its real places Bool [B,h,w]."""

    maps: Arrays
    features: Array
    real: Array


class LayerByLayer(nn.Module):
    """Layers in order, never scanned, with the same function of each layer's output going into the next."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, between: Callable[[jax.Array], jax.Array]):
        inner, by_layer, first = [], [], x
        for n, block in enumerate(self.layers.blocks):
            x, _, seen = run(Layers((block,)), x, ctx, None, start=n)
            by_layer.extend(seen)
            x = between(x)
            inner.append(x)
        records = {name: tuple(r[name] for r in by_layer) for name in (by_layer[0] if by_layer else {})}
        if ctx.records("hidden_states"):
            records["hidden_states"] = (first, *records.get("hidden_states", ()))
        return x, records, jnp.stack(inner)


class QueryDecoder(nn.Module):
    """layers -> norm. With LayerByLayer the norm also follows each layer, and each normed output is returned."""

    layers: Stack | LayerByLayer
    norm: nn.Module

    def __call__(self, x: jax.Array, ctx: Context):
        if isinstance(self.layers, LayerByLayer):
            x, records, inner = self.layers(x, ctx, self.norm)
        else:
            (x, _, records), inner = self.layers(x, ctx), None
        x = self.norm(x)
        if "hidden_states" in records:
            records["hidden_states"] = (*records["hidden_states"][:-1], x)
        return x, records, inner


class SetPredictor(nn.Module):
    """vision -> project -> encoder -> decoder of queries. positions: a module from real places to [B,h*w,D]."""

    vision: nn.Module
    project: PatchEmbed
    positions: nn.Module
    queries: Embed
    encoder: Stack
    decoder: QueryDecoder
    channels: int = 3
    dropout: float = 0.0

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {"pixel_values": jax.ShapeDtypeStruct((1, self.channels, 64, 64), jnp.float32)}

    def see(self, pixel_values: jax.Array, pixel_mask: jax.Array | None, train: bool) -> Seen:
        """Features of images [B,C,H,W]; pixel_mask [B,H,W] is 1 where an image is no padding."""
        b, _, h, w = pixel_values.shape
        mask = jnp.ones((b, h, w), bool) if pixel_mask is None else pixel_mask.astype(bool)
        maps = self.vision(pixel_values, train=train).feature_maps
        maps = tuple(m.transpose(0, 2, 3, 1) for m in maps)
        features = self.project(maps[-1])
        return Seen(maps, features, resize_nearest(mask, size_of(features)))

    def given(self, inputs_embeds: jax.Array, pixel_mask: jax.Array | None) -> Seen:
        """Features that the caller made [B,T,D], taken as a square."""
        side = math.isqrt(inputs_embeds.shape[1])
        features = inputs_embeds.reshape(inputs_embeds.shape[0], side, side, -1)
        whole = jnp.ones(features.shape[:3], bool)
        real = whole if pixel_mask is None else resize_nearest(pixel_mask.astype(bool), (side, side))
        return Seen((), features, real)

    def predict(
        self,
        pixel_values: jax.Array | None = None,
        pixel_mask: jax.Array | None = None,
        decoder_attention_mask: jax.Array | None = None,
        encoder_outputs: ModelOutput | None = None,
        inputs_embeds: jax.Array | None = None,
        decoder_inputs_embeds: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> tuple[QueryModelOutput, Seen]:
        """The model's output, and the features it saw. encoder_outputs: the encoder's, when it ran already."""
        if (pixel_values is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of pixel_values and inputs_embeds")
        if inputs_embeds is None:
            seen = self.see(pixel_values, pixel_mask, train)  # type: ignore[arg-type]
        else:
            seen = self.given(inputs_embeds, pixel_mask)
        flat = seen.features.reshape(seen.features.shape[0], -1, seen.features.shape[-1])
        # The mask hides padding; features given without one are all real.
        keys = Mask(keys=seen.real.reshape(flat.shape[:2]))
        spatial = self.positions(seen.real)
        asked = {"hidden_states": output_hidden_states, "attentions": output_attentions}
        records = {}
        if encoder_outputs is None:
            ctx = Context.plain(flat.shape[1], mask=keys, features=(spatial,), train=train, record=recording(**asked))
            memory, _, records = self.encoder(dropout(self, flat, self.dropout, train), ctx)
        else:
            memory = encoder_outputs["last_hidden_state"]
        own = jnp.broadcast_to(self.queries.embedding[None], (flat.shape[0], *self.queries.embedding.shape))
        ctx = Context.plain(
            own.shape[1],
            mask=read_attention_mask(decoder_attention_mask),
            encoder=memory,
            encoder_mask=keys,
            features=(own, spatial),
            train=train,
            record=recording(**asked, cross_attentions=output_attentions),
        )
        start = jnp.zeros_like(own) if decoder_inputs_embeds is None else decoder_inputs_embeds
        x, decoded, inner = self.decoder(start, ctx)
        output = QueryModelOutput(
            last_hidden_state=x,
            decoder_hidden_states=decoded.get("hidden_states"),
            decoder_attentions=decoded.get("attentions"),
            cross_attentions=decoded.get("cross_attentions"),
            encoder_last_hidden_state=memory,
            encoder_hidden_states=records.get("hidden_states"),
            encoder_attentions=records.get("attentions"),
            intermediate_hidden_states=inner,
        )
        return output, seen

    def __call__(self, pixel_values: jax.Array | None = None, *args, **kwargs) -> QueryModelOutput:
        """The vectors of all queries; the arguments are those of `predict`."""
        return self.predict(pixel_values, *args, **kwargs)[0]
