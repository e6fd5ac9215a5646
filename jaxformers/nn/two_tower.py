"""TwoTower: texts and images compared in one space. Sources: arXiv:2103.00020, arXiv:2303.15343."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.outputs import Array, BaseModelOutput, ModelOutput
from jaxformers.nn.param import Constant, param
from jaxformers.nn.towers import ImageTower, TextTower
from jaxformers.ops.dot import dot


@struct.dataclass
class CLIPOutput(ModelOutput):
    """How well each text fits each image, the normalised embeddings, and both towers' outputs."""

    logits_per_image: Array  # [images, texts]
    logits_per_text: Array  # [texts, images]
    text_embeds: Array
    image_embeds: Array
    text_model_output: BaseModelOutput
    vision_model_output: BaseModelOutput


class Similarity(nn.Module):
    """Cosines of texts and images, times exp(logit_scale), plus logit_bias where `bias`. shape: of both parameters."""

    scale: float = 0.0
    bias: bool = False
    shape: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, texts: jax.Array, images: jax.Array) -> jax.Array:
        axes = (None,) * len(self.shape)
        scale = param(self, "logit_scale", Constant(self.scale), self.shape, axes)
        logits = dot(texts, images.T) * jnp.exp(scale)
        return logits + param(self, "logit_bias", Constant(0.0), self.shape, axes) if self.bias else logits


def project(out: BaseModelOutput, by: nn.Module | None) -> BaseModelOutput:
    """The same output with its pooled part projected."""
    return out if by is None else dataclasses.replace(out, pooler_output=by(out.pooler_output))


def unit(x: jax.Array | None) -> jax.Array:
    """x / |x| along the last axis. Raises ValueError when a tower pools nothing."""
    if x is None:
        raise ValueError("a tower has no pooler, so there is nothing to compare; see the config's vision_use_head")
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))


class TwoTower(nn.Module):
    """similarity(unit(text features), unit(image features)); the projections are None where the towers' own serve."""

    text: TextTower
    image: ImageTower
    similarity: Similarity
    text_projection: nn.Module | None = None
    image_projection: nn.Module | None = None

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {**self.text.dummy_inputs(), **self.image.dummy_inputs()}

    def get_text_features(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        **options: Any,
    ) -> BaseModelOutput:
        """The text tower's output, pooler_output being the texts in the shared space, not normalised."""
        return project(self.text(input_ids, attention_mask, position_ids, **options), self.text_projection)

    def get_image_features(
        self, pixel_values: jax.Array, interpolate_pos_encoding: bool = False, **options: Any
    ) -> BaseModelOutput:
        """The image tower's output, pooler_output being the images in the shared space, not normalised."""
        return project(self.image(pixel_values, interpolate_pos_encoding, **options), self.image_projection)

    def __call__(
        self,
        input_ids: jax.Array,
        pixel_values: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> CLIPOutput:
        options = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions, "train": train}
        images = self.get_image_features(pixel_values, interpolate_pos_encoding, **options)
        texts = self.get_text_features(input_ids, attention_mask, position_ids, **options)
        image_embeds, text_embeds = unit(images.pooler_output), unit(texts.pooler_output)
        logits = self.similarity(text_embeds, image_embeds)
        return CLIPOutput(
            logits_per_image=logits.T,
            logits_per_text=logits,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=texts,
            vision_model_output=images,
        )
