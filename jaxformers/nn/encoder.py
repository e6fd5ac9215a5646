"""TextEncoder: summed embeddings, a stack that sees both ways (or causally, as a decoder), and a pooler."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context, recording
from jaxformers.core.mask import Mask
from jaxformers.core.outputs import BaseModelOutput
from jaxformers.core.sharding import constrain
from jaxformers.core.state import Cache
from jaxformers.nn.inputs import decoder_context, read_attention_mask, token_count
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import dropout


class Pooler(nn.Module):
    """act(dense(first token))."""

    width: int
    act: Callable = jnp.tanh

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.act(Linear(self.width, True, ("embed", None), name="dense")(x[:, 0]))


@dataclass(frozen=True)
class PaddedPositions:
    """RoBERTa's positions: tokens count from pad + 1, padding tokens stand at pad and are not counted."""

    pad: int

    def __call__(self, ids: jax.Array | None, slots: jax.Array) -> jax.Array:
        """Positions [1|B,T] of new tokens; all of them count when only embeddings are known."""
        if ids is None:
            return slots[None] + self.pad + 1
        real = (ids != self.pad).astype(jnp.int32)
        return (jnp.cumsum(real, axis=1) + slots[0]) * real + self.pad


class TextEmbeddings(nn.Module):
    """dropout(norm(words + positions + types)); parts that a family lacks are None. `embed` is shared with heads."""

    embed: nn.Module
    positions: nn.Module | None = None
    types: nn.Module | None = None
    norm: nn.Module | None = None
    project: nn.Module | None = None  # from the embedding's width to the stack's
    dropout: float = 0.0

    def __call__(
        self, ids: jax.Array | None, types: jax.Array | None, embeds: jax.Array | None, ctx: Context
    ) -> jax.Array:
        x = self.embed(ids) if embeds is None else embeds
        if self.types is not None:
            x = x + self.types(jnp.zeros(x.shape[:2], jnp.int32) if types is None else types)
        if self.positions is not None:
            x = x + self.positions(ctx.positions)
        if self.norm is not None:
            x = self.norm(x)
        x = dropout(self, x, self.dropout, ctx.train)
        return x if self.project is None else self.project(x)


class TextEncoder(nn.Module):
    """embeddings -> layers -> norm -> pooler. With `causal` it decodes: it takes and returns a cache.

    positions: how positions follow from (input_ids or None, slots [T]); slots by default.
    bias: a module (q_slots, k_slots) -> [1,H,T,S] added to every layer's scores (MPNet).
    encoder_width: of the encoder output that cross-attention reads; None when the layers have none.
    """

    embeddings: TextEmbeddings
    layers: nn.Module
    norm: nn.Module | None = None
    pooler: nn.Module | None = None
    bias: nn.Module | None = None
    positions: Callable | None = None
    causal: bool = False
    encoder_width: int | None = None

    @property
    def embed(self) -> nn.Module:
        """The table of words, which tied heads read backwards."""
        return self.embeddings.embed

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        inputs = {"input_ids": jax.ShapeDtypeStruct((1, 2), jnp.int32)}
        if self.encoder_width is not None:
            inputs["encoder_hidden_states"] = jax.ShapeDtypeStruct((1, 2, self.encoder_width), jnp.float32)
        return inputs

    def init_cache(self, batch: int, length: int, dtype=jnp.float32, encoder_length: int = 0) -> Cache:
        """An empty cache for `length` tokens, and for an encoder output of `encoder_length` where one is read."""
        if not self.causal:
            raise ValueError("a cache needs a model that decodes: set is_decoder=True in its config")
        state = self.layers.init_state(batch, length, dtype, encoder_length)
        heard = jnp.ones((batch, encoder_length), bool) if encoder_length else None
        return Cache(state, jnp.zeros((), jnp.int32), jnp.ones((batch, length), bool), heard)

    def read_encoder(self, states: jax.Array | None, mask: jax.Array | None, cache: Cache | None):
        """The encoder's output, its mask, and the cache with that mask in it. Raises ValueError if it has no place."""
        if not self.causal:
            return None, Mask(), cache  # as transformers, an encoder reads no other encoder
        if states is None:
            return None, Mask(keys=None if cache is None else cache.encoder_valid), cache
        if self.encoder_width is None:
            raise ValueError("encoder_hidden_states need cross-attention: set add_cross_attention=True in the config")
        if cache is None:
            return states, read_attention_mask(mask), cache
        room = 0 if cache.encoder_valid is None else cache.encoder_valid.shape[1]
        if states.shape[1] != room:
            raise ValueError(
                f"encoder_hidden_states have length {states.shape[1]}, the cache has room for {room}; "
                f"make it with init_cache(..., encoder_length={states.shape[1]})"
            )
        heard = jnp.ones(states.shape[:2], bool) if mask is None else mask.astype(bool)
        return states, read_attention_mask(heard), cache.replace(encoder_valid=heard)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        encoder_attention_mask: jax.Array | None = None,
        past_key_values: Cache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        segment_ids: jax.Array | None = None,
        train: bool = False,
    ) -> BaseModelOutput:
        """segment_ids: Int [B,T], the document of each token, 0 for padding; documents do not see each other."""
        if past_key_values is not None and not self.causal:
            raise ValueError("past_key_values needs a model that decodes: set is_decoder=True in its config")
        length = token_count(input_ids, inputs_embeds)
        record = recording(
            hidden_states=output_hidden_states, attentions=output_attentions, cross_attentions=output_attentions
        )
        ids = input_ids if segment_ids is None else None  # packed rows have their padding in the segments
        encoder, encoder_mask, cache = self.read_encoder(encoder_hidden_states, encoder_attention_mask, past_key_values)
        ctx, cache = decoder_context(
            length,
            attention_mask,
            position_ids,
            cache,
            causal=self.causal,
            segment_ids=segment_ids,
            positions=None if self.positions is None else lambda slots, real: self.positions(ids, slots),
            encoder=encoder,
            encoder_mask=encoder_mask,
            train=train,
            record=record,
        )
        if self.bias is not None:
            ctx = ctx.replace(bias=self.bias(ctx.slots, ctx.slots))
        x = self.embeddings(input_ids, token_type_ids, inputs_embeds, ctx)
        x = constrain(x, "batch", "length", None)
        x, states, records = self.layers(x, ctx, None if cache is None else cache.layers)
        if self.norm is not None:
            x = self.norm(x)
            if "hidden_states" in records:
                records["hidden_states"] = (*records["hidden_states"][:-1], x)
        pooled = None if self.pooler is None else self.pooler(x)
        cache = None if cache is None else cache.replace(layers=states)
        return BaseModelOutput(last_hidden_state=x, pooler_output=pooled, past_key_values=cache, **records)
