"""ImageEncoder: patches, a stack that sees all of them, a norm and what pools the result."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context, recording
from jaxformers.core.outputs import BaseModelOutput
from jaxformers.core.sharding import constrain
from jaxformers.nn.inputs import read_attention_mask
from jaxformers.nn.patch import ImageEmbeddings, read_pixels


class FirstToken(nn.Module):
    """The first token as it is."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x[:, 0]


class ImageEncoder(nn.Module):
    """embeddings -> layers -> norm -> pooler. hidden_states are those before the norm."""

    embeddings: ImageEmbeddings
    layers: nn.Module
    norm: nn.Module
    pooler: nn.Module | None = None
    channels: int = 3

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {"pixel_values": jax.ShapeDtypeStruct((1, self.channels, *self.embeddings.image), jnp.float32)}

    def __call__(
        self,
        pixel_values: jax.Array,
        bool_masked_pos: jax.Array | None = None,
        interpolate_pos_encoding: bool = False,
        attention_mask: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> BaseModelOutput:
        """Encode images [B,C,H,W]; attention_mask [B,T] speaks of patches, the class token included."""
        x = read_pixels(pixel_values, self.channels)
        x = self.embeddings(x, bool_masked_pos, interpolate_pos_encoding, train)
        record = recording(hidden_states=output_hidden_states, attentions=output_attentions)
        ctx = Context.plain(x.shape[1], mask=read_attention_mask(attention_mask), train=train, record=record)
        x, _, records = self.layers(constrain(x, "batch", "length", None), ctx)
        x = self.norm(x)
        pooled = None if self.pooler is None else self.pooler(x)
        return BaseModelOutput(last_hidden_state=x, pooler_output=pooled, **records)
