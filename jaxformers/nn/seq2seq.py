"""Seq2Seq: an encoder reads, a decoder writes while it looks at what was read; with an optional cache."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context, recording
from jaxformers.core.mask import Mask
from jaxformers.core.outputs import BaseModelOutput, Seq2SeqModelOutput
from jaxformers.core.sharding import constrain
from jaxformers.core.state import Cache
from jaxformers.nn.encoded import as_output, remember_encoder
from jaxformers.nn.inputs import decoder_context, read_attention_mask, token_count
from jaxformers.nn.param import dropout
from jaxformers.nn.stack import Stack


class TokenStem(nn.Module):
    """dropout(norm(x * scale + positions)); parts that a family lacks are None."""

    positions: nn.Module | None = None  # (positions [1|B,T]) -> [1|B,T,D]
    norm: nn.Module | None = None
    dropout: float = 0.0
    scale: float = 1.0

    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        x = x * self.scale if self.scale != 1.0 else x
        if self.positions is not None:
            x = x + self.positions(ctx.positions).astype(x.dtype)
        if self.norm is not None:
            x = self.norm(x)
        return dropout(self, x, self.dropout, ctx.train)


class Side(nn.Module):
    """stem -> layers -> norm -> dropout: what encoder and decoder have in common.

    lookup_scale: multiplies embeddings of ids, not embeddings given by the caller. bias: (q_slots, k_slots) -> added to
    the scores of every layer.
    """

    embed: nn.Module
    layers: Stack
    stem: nn.Module
    norm: nn.Module | None = None
    bias: nn.Module | None = None
    dropout: float = 0.0  # after the norm
    lookup_scale: float = 1.0

    def tokens(self, ids: jax.Array | None, embeds: jax.Array | None) -> jax.Array:
        """Embeddings of the ids, or those given."""
        if ids is None:
            return embeds  # type: ignore[return-value]
        x = self.embed(ids)
        return x * self.lookup_scale if self.lookup_scale != 1.0 else x

    def through(self, x: jax.Array, ctx: Context, cache: Cache | None = None) -> BaseModelOutput:
        """Run everything after the embedding."""
        if self.bias is not None:
            k_slots = ctx.slots if cache is None else jnp.arange(cache.length)
            ctx = ctx.replace(bias=self.bias(ctx.slots, k_slots))
        x = constrain(self.stem(x, ctx), "batch", "length", None)
        x, states, records = self.layers(x, ctx, None if cache is None else cache.layers)
        if self.norm is not None:
            x = self.norm(x)
        x = dropout(self, x, self.dropout, ctx.train)
        if "hidden_states" in records:
            records["hidden_states"] = (*records["hidden_states"][:-1], x)
        cache = None if cache is None else cache.replace(layers=states)
        return BaseModelOutput(last_hidden_state=x, past_key_values=cache, **records)


class Encoder(Side):
    """Tokens in, hidden states out; every token sees every real token."""

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {"input_ids": jax.ShapeDtypeStruct((1, 2), jnp.int32)}

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        segment_ids: jax.Array | None = None,
        train: bool = False,
    ) -> BaseModelOutput:
        """segment_ids: Int [B,T], the document of each token, 0 for padding; documents do not see each other."""
        length = token_count(input_ids, inputs_embeds)
        record = recording(hidden_states=output_hidden_states, attentions=output_attentions)
        packing: dict = {"causal": False, "segment_ids": segment_ids}
        ctx, _ = decoder_context(length, attention_mask, None, None, **packing, train=train, record=record)
        return self.through(self.tokens(input_ids, inputs_embeds), ctx)


class CrossDecoder(Side):
    """Writes token by token, looking at an encoder's output if there is one; takes and returns a cache."""

    source_length: int = 0  # of the encoder's output, where it is always the same

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        width = self.embed.width  # type: ignore[attr-defined]
        return {
            "input_ids": jax.ShapeDtypeStruct((1, 2), jnp.int32),
            "encoder_hidden_states": jax.ShapeDtypeStruct((1, 2, width), jnp.float32),
        }

    def init_cache(self, batch: int, length: int, dtype=jnp.float32, encoder_length: int | None = None) -> Cache:
        """An empty cache for `length` tokens that look at `encoder_length` encoded ones (0: at none)."""
        encoder_length = self.source_length if encoder_length is None else encoder_length
        state = self.layers.init_state(batch, length, dtype, encoder_length)
        seen = jnp.ones((batch, encoder_length), bool) if encoder_length else None
        return Cache(state, jnp.zeros((), jnp.int32), jnp.ones((batch, length), bool), seen)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        encoder_attention_mask: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        encoder_outputs: BaseModelOutput | tuple | jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        segment_ids: jax.Array | None = None,
        encoder_segment_ids: jax.Array | None = None,
        train: bool = False,
    ) -> BaseModelOutput:
        """Packed rows: segment_ids are the decoder's documents, encoder_segment_ids the encoder's, Int [B,T|S]."""
        if encoder_hidden_states is None and encoder_outputs is not None:
            encoder_hidden_states = as_output(encoder_outputs).last_hidden_state
        encoder, mask = encoder_hidden_states, read_attention_mask(encoder_attention_mask)
        if past_key_values is not None:
            past_key_values, encoder = remember_encoder(past_key_values, encoder, encoder_attention_mask)
            mask = Mask(keys=past_key_values.encoder_valid)
        if segment_ids is not None and encoder_segment_ids is not None:
            mask = mask.replace(q_segments=segment_ids, k_segments=encoder_segment_ids)
        record = recording(
            hidden_states=output_hidden_states, attentions=output_attentions, cross_attentions=output_attentions
        )
        ctx, cache = decoder_context(
            token_count(input_ids, inputs_embeds),
            attention_mask,
            position_ids,
            past_key_values,
            segment_ids=segment_ids,
            encoder=encoder,
            encoder_mask=mask,
            train=train,
            record=record,
        )
        return self.through(self.tokens(input_ids, inputs_embeds), ctx, cache)


def shift_right(ids: jax.Array, start: int, pad: int | None) -> jax.Array:
    """Labels or texts as decoder inputs: one place to the right, `start` first, -100 replaced by padding."""
    if pad is None:
        raise ValueError(
            "decoder_input_ids are made from input_ids, which needs pad_token_id in the config; it is None"
        )
    shifted = jnp.concatenate([jnp.full_like(ids[:, :1], start), ids[:, :-1]], axis=1)
    return jnp.where(shifted == -100, pad, shifted)


class Seq2Seq(nn.Module):
    """decoder(tokens, encoder(tokens)).

    shared: the table both sides look words up in; None when each has its own. start: begins decoder inputs that are
    made from input_ids when none are given; None when they must be given. pad: the padding id.

    With a cache, the first call brings the encoder's input (or `encoder_outputs`), later ones the new tokens only.
    """

    shared: nn.Module | None
    encoder: nn.Module
    decoder: CrossDecoder
    start: int | None = None
    pad: int | None = None

    @property
    def embed(self) -> nn.Module:
        """The decoder's table of words, which tied heads read backwards."""
        return self.decoder.embed

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {
            **self.encoder.dummy_inputs(),  # type: ignore[attr-defined]
            "decoder_input_ids": jax.ShapeDtypeStruct((1, 2), jnp.int32),
        }

    def init_cache(self, batch: int, length: int, dtype=jnp.float32, encoder_length: int | None = None) -> Cache:
        """An empty cache for `length` decoder tokens and `encoder_length` encoded ones."""
        return self.decoder.init_cache(batch, length, dtype, encoder_length)

    def encode(self, *args, **kwargs) -> BaseModelOutput:
        """Run the encoder alone, to pass its output as `encoder_outputs`; the arguments are the encoder's."""
        return self.encoder(*args, **kwargs)

    def decode(
        self,
        encoded: BaseModelOutput | None,
        encoder_mask: jax.Array | None,
        ids: jax.Array | None,
        **kwargs,
    ) -> Seq2SeqModelOutput:
        """Run the decoder, and name everything as transformers does. `kwargs` are the decoder's."""
        if encoded is None and kwargs["past_key_values"] is None:
            raise ValueError(
                "give the encoder's inputs, encoder_outputs, or past_key_values that hold an encoder's output"
            )
        states = None if encoded is None else encoded.last_hidden_state
        out = self.decoder(ids, encoder_hidden_states=states, encoder_attention_mask=encoder_mask, **kwargs)
        return Seq2SeqModelOutput(
            last_hidden_state=out.last_hidden_state,
            past_key_values=out.past_key_values,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=states,
            encoder_hidden_states=None if encoded is None else encoded.hidden_states,
            encoder_attentions=None if encoded is None else encoded.attentions,
        )

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        decoder_input_ids: jax.Array | None = None,
        decoder_attention_mask: jax.Array | None = None,
        encoder_outputs: BaseModelOutput | tuple | jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        decoder_inputs_embeds: jax.Array | None = None,
        decoder_position_ids: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> Seq2SeqModelOutput:
        packed = segment_ids is not None
        if packed != (decoder_segment_ids is not None):
            raise ValueError("packed rows need both segment_ids and decoder_segment_ids: give both or neither")
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if packed:
                raise ValueError("packed rows need decoder_input_ids, in which each document begins anew")
            if self.start is None or input_ids is None:
                raise ValueError("give decoder_input_ids or decoder_inputs_embeds; there is nothing to make them from")
            decoder_input_ids = shift_right(input_ids, self.start, self.pad)
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions, "train": train}
        encoded = None
        if encoder_outputs is not None:
            encoded = as_output(encoder_outputs)
        elif input_ids is not None or inputs_embeds is not None:
            documents = {"segment_ids": segment_ids} if packed else {}  # no argument of an encoder of sounds
            encoded = self.encoder(input_ids, attention_mask, inputs_embeds, **documents, **asked)
        return self.decode(
            encoded,
            attention_mask,
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            position_ids=decoder_position_ids,
            segment_ids=decoder_segment_ids,
            encoder_segment_ids=segment_ids,
            **asked,
        )
