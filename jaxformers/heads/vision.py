"""Heads for images: a class, the pixels of masked patches, and feature maps for other models."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.outputs import Array, Layers, ModelOutput
from jaxformers.nn.linear import Linear
from jaxformers.nn.patch import PatchEmbed
from jaxformers.nn.stages import channels_first


@struct.dataclass
class ImageClassifierOutput(ModelOutput):
    """Scores [B,labels] of each class."""

    logits: Array
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    reshaped_hidden_states: Layers | None = None


@struct.dataclass
class MaskedImageModelingOutput(ModelOutput):
    """Pixels [B,C,H,W] as the model imagines them."""

    reconstruction: Array
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    reshaped_hidden_states: Layers | None = None


@struct.dataclass
class BackboneOutput(ModelOutput):
    """Feature maps of the chosen stages, [B,C,h,w] each."""

    feature_maps: Layers
    hidden_states: Layers | None = None
    attentions: Layers | None = None


def image_records(out) -> dict:
    """What an image encoder's output passes on to the head's."""
    return {n: getattr(out, n, None) for n in ("hidden_states", "attentions", "reshaped_hidden_states")}


def first_token(out) -> jax.Array:
    """The class token."""
    return out.last_hidden_state[:, 0]


def first_and_mean(out) -> jax.Array:
    """The class token beside the mean of the patches, [B,2D]."""
    x = out.last_hidden_state
    return jnp.concatenate([x[:, 0], x[:, 1:].mean(axis=1)], axis=1)


def pooled(out) -> jax.Array:
    """The pooled output, flat: [B,D]."""
    return out.pooler_output.reshape(out.pooler_output.shape[0], -1)


class ImageClassifier(nn.Module):
    """head(features(output)); without labels the features themselves."""

    backbone: nn.Module
    labels: int
    features: Callable = first_token

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    @nn.compact
    def __call__(self, pixel_values: jax.Array, **kwargs) -> ImageClassifierOutput:
        out = self.backbone(pixel_values, **kwargs)
        x = self.features(out)
        if self.labels:
            x = Linear(self.labels, True, ("embed", None), name="head")(x)
        return ImageClassifierOutput(logits=x, **image_records(out))


class PixelShuffle(nn.Module):
    """Each place of a feature map [B,h,w,D] becomes a square of pixels: [B,C,h*stride,w*stride]."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        r, c = self.stride, self.channels
        x = PatchEmbed(r * r * c, (1, 1), name="project")(x)
        b, h, w, _ = x.shape
        return x.reshape(b, h, w, c, r, r).transpose(0, 3, 1, 4, 2, 5).reshape(b, c, h * r, w * r)


class MaskedImageModeling(nn.Module):
    """Pixels from the last hidden state's patches. extra: tokens before them; patch: the encoder's patch size."""

    backbone: nn.Module
    decoder: PixelShuffle
    patch: int | tuple[int, ...] | None = None  # None: whatever it is, it need not equal the stride
    extra: int = 1

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(
        self, pixel_values: jax.Array, bool_masked_pos: jax.Array | None = None, **kwargs
    ) -> MaskedImageModelingOutput:
        if bool_masked_pos is not None and self.patch not in (None, self.decoder.stride):
            raise ValueError(
                f"bool_masked_pos needs patch_size {self.patch} equal to encoder_stride {self.decoder.stride}"
            )
        out = self.backbone(pixel_values, bool_masked_pos, **kwargs)
        x = out.last_hidden_state[:, self.extra :]
        side = int(x.shape[1] ** 0.5)
        if side * side != x.shape[1]:
            raise ValueError(f"{x.shape[1]} patches do not make a square; masked image modeling needs square images")
        pixels = self.decoder(x.reshape(x.shape[0], side, side, -1))
        return MaskedImageModelingOutput(reconstruction=pixels, **image_records(out))


class FeatureTokens(nn.Module):
    """Hidden states of chosen layers as feature maps; the class token is left out when they become images."""

    backbone: nn.Module
    places: tuple[int, ...]
    patch: tuple[int, int]
    norm: bool = True
    as_images: bool = True

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(self, pixel_values: jax.Array, output_hidden_states: bool = False, **kwargs) -> BackboneOutput:
        out = self.backbone(pixel_values, output_hidden_states=True, **kwargs)
        grid = (pixel_values.shape[2] // self.patch[0], pixel_values.shape[3] // self.patch[1])
        maps = tuple(self.one(out.hidden_states[i], grid) for i in self.places)
        return BackboneOutput(
            feature_maps=maps,
            hidden_states=out.hidden_states if output_hidden_states else None,
            attentions=out.attentions,
        )

    def one(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """The feature map of one layer's tokens [B,T,D]."""
        x = self.backbone.norm(x) if self.norm else x
        return x[:, 1:].reshape(x.shape[0], *grid, -1).transpose(0, 3, 1, 2) if self.as_images else x


class FeatureMaps(nn.Module):
    """Outputs of chosen stages of a StagedEncoder, each through its own norm if there are `norms`."""

    backbone: nn.Module
    places: tuple[int, ...]
    norms: tuple[nn.Module, ...] | None = None

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(
        self,
        pixel_values: jax.Array,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> BackboneOutput:
        maps, attentions = self.backbone.maps(pixel_values, output_attentions=output_attentions, train=train)
        chosen = [maps[i] for i in self.places]
        if self.norms is not None:
            chosen = [norm(x) for norm, x in zip(self.norms, chosen, strict=True)]
        return BackboneOutput(
            feature_maps=tuple(map(channels_first, chosen)),
            hidden_states=tuple(map(channels_first, maps)) if output_hidden_states else None,
            attentions=attentions or None,
        )
