"""VisionLanguage: images become tokens of a language model. Source: arXiv:2310.03744."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.outputs import Array, BaseModelOutput, Layers, ModelOutput
from jaxformers.core.state import Cache
from jaxformers.nn.linear import Linear


@struct.dataclass
class VisionLanguageOutput(ModelOutput):
    """`image_hidden_states` [N,D] are all images' tokens, one image after another."""

    last_hidden_state: Array
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    image_hidden_states: Array | None = None


class Projector(nn.Module):
    """linear_2(act(linear_1(x)))."""

    width: int
    act: Callable
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.act(Linear(self.width, self.bias, ("embed", None), name="linear_1")(x))
        return Linear(self.width, self.bias, (None, "embed"), name="linear_2")(x)


def fill_places(x: jax.Array, where: jax.Array, features: jax.Array) -> jax.Array:
    """x [B,T,D] with the places where `where` [B,T] is true taken by features [N,D] in order.

    The result is all NaN unless there are exactly N places: a traced program cannot raise.
    """
    order = jnp.cumsum(where.reshape(-1)) - 1
    taken = jnp.take(features, jnp.clip(order, 0, len(features) - 1), axis=0).reshape(x.shape)
    filled = jnp.where(where[..., None], taken.astype(x.dtype), x)
    return jnp.where(order[-1] + 1 == len(features), filled, jnp.nan)


class VisionLanguage(nn.Module):
    """language(words, with image tokens replaced by project(hidden states of vision)).

    feature_layer: which hidden states of the vision tower, several side by side. strategy: "default" leaves out the
    first token, "full" keeps it.
    """

    vision: nn.Module
    project: Projector
    language: nn.Module
    image_token: int
    feature_layer: int | tuple[int, ...] = -2
    strategy: str = "default"

    @property
    def embed(self) -> nn.Module:
        """The table of words, which tied heads read backwards."""
        return self.language.embed

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {**self.language.dummy_inputs(), **self.vision.dummy_inputs()}

    def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Cache:
        """An empty cache for `length` tokens, those of images counted."""
        return self.language.init_cache(batch, length, dtype)

    def get_image_features(
        self,
        pixel_values: jax.Array,
        vision_feature_layer: int | tuple[int, ...] | None = None,
        vision_feature_select_strategy: str | None = None,
        output_hidden_states: bool = False,
        **options: Any,
    ) -> BaseModelOutput:
        """The vision tower's output, pooler_output [images,tokens,D] being what the language model reads."""
        layer = self.feature_layer if vision_feature_layer is None else vision_feature_layer
        strategy = vision_feature_select_strategy or self.strategy
        if strategy not in ("default", "full"):
            raise ValueError(f"vision_feature_select_strategy is {strategy!r}; expected 'default' or 'full'")
        out = self.vision(pixel_values, output_hidden_states=True, **options)
        states = [out.hidden_states[i] for i in ([layer] if isinstance(layer, int) else layer)]
        x = jnp.concatenate([s[:, 1:] if strategy == "default" else s for s in states], axis=-1)
        hidden = out.hidden_states if output_hidden_states else None
        return out.replace(pooler_output=self.project(x), hidden_states=hidden)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        pixel_values: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        vision_feature_layer: int | tuple[int, ...] | None = None,
        vision_feature_select_strategy: str | None = None,
        train: bool = False,
        **options: Any,
    ) -> VisionLanguageOutput:
        """As the language model; pixel_values [images,C,H,W] fill the places of the image token, in order.

        With a cache only the call that holds those places brings pixel_values. There must be exactly as many places as
        image tokens; else every number is NaN.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x = self.language.embed(input_ids) if inputs_embeds is None else inputs_embeds
        features = None
        if pixel_values is not None:
            images = self.get_image_features(
                pixel_values, vision_feature_layer, vision_feature_select_strategy, train=train
            )
            features = jnp.asarray(images.pooler_output)
            features = features.reshape(-1, features.shape[-1]).astype(x.dtype)
            if input_ids is not None:
                where = input_ids == self.image_token
            else:
                where = (x == self.language.embed(jnp.asarray(self.image_token))).all(axis=-1)
            x = fill_places(x, where, features)
        out = self.language(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=x,
            train=train,
            **options,
        )
        return VisionLanguageOutput(
            last_hidden_state=out.last_hidden_state,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            image_hidden_states=features,
        )
