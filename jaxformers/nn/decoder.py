"""Decoder: tokens in, hidden states out, with an optional cache. The base model of every decoder-only family."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import recording
from jaxformers.core.outputs import BaseModelOutput
from jaxformers.core.sharding import constrain
from jaxformers.core.state import Cache, SsmState
from jaxformers.nn.inputs import decoder_context, refuse_segments, token_count
from jaxformers.nn.stack import Stack


class Decoder(nn.Module):
    """embed -> stem -> layers -> norm.

    stem: a module (x, ctx) -> x after the embedding (learned positions, a norm, a projection).
    positions: how positions follow from (slots, attention mask); slots by default.
    bias: a plain spec, context -> [1|B,H,1|T,S] added to every layer's scores; S are the slots of the whole cache.
    last_is_normed: whether hidden_states ends with the normed output, as it does in most of transformers' decoders.
    """

    embed: nn.Module
    layers: Stack
    norm: nn.Module | None = None
    stem: nn.Module | None = None
    embed_scale: float = 1.0
    positions: Callable | None = None
    bias: Callable | None = None
    causal: bool = True
    last_is_normed: bool = True

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {"input_ids": jax.ShapeDtypeStruct((1, 2), jnp.int32)}

    def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Cache:
        """An empty cache for `length` tokens, to pass as past_key_values."""
        valid = jnp.ones((batch, length), bool)
        return Cache(self.layers.init_state(batch, length, dtype), jnp.zeros((), jnp.int32), valid)

    def recurs(self) -> bool:
        """Whether a layer carries a state from token to token besides attention's keys and values."""
        states = jax.eval_shape(lambda: self.layers.init_state(1, 1, jnp.float32))
        leaves = jax.tree.leaves(states, is_leaf=lambda x: isinstance(x, SsmState))
        return any(isinstance(leaf, SsmState) for leaf in leaves)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        output_router_logits: bool = False,
        use_cache: bool = True,
        segment_ids: jax.Array | None = None,
        train: bool = False,
    ) -> BaseModelOutput:
        """As transformers': `use_cache=False` reads positions that jump, without an attention mask, as packed texts.

        segment_ids: Int [B,T], the document of each token, 0 for padding; documents do not see each other.
        """
        record = recording(
            hidden_states=output_hidden_states, attentions=output_attentions, router_logits=output_router_logits
        )
        ctx, cache = decoder_context(
            token_count(input_ids, inputs_embeds),
            attention_mask,
            position_ids,
            past_key_values,
            causal=self.causal,
            packed=not use_cache,
            segment_ids=segment_ids,
            positions=self.positions,
            train=train,
            record=record,
        )
        if segment_ids is not None and self.recurs():
            refuse_segments(ctx, "recurrent layers, whose state passes from one document to the next")
        if self.bias is not None:
            ctx = ctx.replace(bias=self.bias(ctx))
        x = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        if self.embed_scale != 1.0:
            # In the embedding's own precision, as the checkpoints were trained.
            x = x * jnp.asarray(self.embed_scale, x.dtype)
        if self.stem is not None:
            x = self.stem(x, ctx)
        x = constrain(x, "batch", "length", None)
        x, states, records = self.layers(x, ctx, None if cache is None else cache.layers)
        if self.norm is not None:
            x = self.norm(x)
        if self.last_is_normed and "hidden_states" in records:
            records["hidden_states"] = (*records["hidden_states"][:-1], x)
        cache = None if cache is None else cache.replace(layers=states)
        return BaseModelOutput(last_hidden_state=x, past_key_values=cache, **records)
