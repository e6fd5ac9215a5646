"""Words after texts with images in them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.outputs import Array, BaseModelOutput, Layers, ModelOutput
from jaxformers.core.sharding import constrain
from jaxformers.core.state import Cache
from jaxformers.heads.scoring import Scoring
from jaxformers.nn.vision_language import VisionLanguage


@struct.dataclass
class VisionLanguageLogits(ModelOutput):
    """Scores of every word at every place, and what the images became."""

    logits: Array
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    image_hidden_states: Array | None = None


class VisionLanguageLM(nn.Module):
    """head(backbone); with head None the embedding is read backwards (tied weights)."""

    backbone: VisionLanguage
    head: nn.Module | None = None

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Cache:
        """An empty cache for `length` tokens, those of images counted."""
        return self.backbone.init_cache(batch, length, dtype)

    def get_image_features(self, *args: Any, **kwargs: Any) -> BaseModelOutput:
        """As the backbone's."""
        return self.backbone.get_image_features(*args, **kwargs)

    def __call__(
        self, input_ids: jax.Array | None = None, *args: Any, logits_to_keep: int = 0, **kwargs: Any
    ) -> VisionLanguageLogits:
        """As the backbone; `logits_to_keep` > 0 scores only that many last tokens."""
        out = self.backbone(input_ids, *args, **kwargs)
        x = out.last_hidden_state[:, -logits_to_keep:] if logits_to_keep else out.last_hidden_state
        logits = self.backbone.embed.attend(x) if self.head is None else self.head(x)
        return VisionLanguageLogits(
            logits=constrain(logits, "batch", "length", "vocab"),
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            image_hidden_states=out.image_hidden_states,
        )

    def scoring(self, input_ids: jax.Array | None = None, *args: Any, **kwargs: Any) -> Scoring:
        """What the scores are made of; the arguments are the backbone's."""
        out = self.backbone(input_ids, *args, **kwargs)
        return Scoring(*(self.head or self.backbone.embed).factors(out.last_hidden_state))
