"""What models return: pytree dataclasses with transformers' field names; a field that was not computed is None."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from flax import struct

from jaxformers.core.state import Cache

Array = jax.Array
Layers = tuple[Array, ...]


class ModelOutput:
    """Access by attribute, by name and by place, as transformers' outputs allow."""

    def __getitem__(self, key: str | int) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __contains__(self, key: str) -> bool:
        return getattr(self, key, None) is not None

    def keys(self) -> list[str]:
        """Names of the fields that were computed."""
        return [f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None]  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def items(self) -> list[tuple[str, Any]]:
        """Pairs of name and value of the fields that were computed."""
        return [(k, getattr(self, k)) for k in self.keys()]

    def to_tuple(self) -> tuple:
        """The fields that were computed, in order."""
        return tuple(v for _, v in self.items())


@struct.dataclass
class BaseModelOutput(ModelOutput):
    last_hidden_state: Array
    pooler_output: Array | None = None
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    cross_attentions: Layers | None = None
    router_logits: Layers | None = None


@struct.dataclass
class Seq2SeqModelOutput(ModelOutput):
    last_hidden_state: Array
    past_key_values: Cache | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Array | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None


@struct.dataclass
class LogitsOutput(ModelOutput):
    """Logits of any head: language model, classifier, token tagger, CTC."""

    logits: Array
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    cross_attentions: Layers | None = None
    router_logits: Layers | None = None


@struct.dataclass
class SpanOutput(ModelOutput):
    """Start and end scores of an extracted answer, [B,T] each."""

    start_logits: Array
    end_logits: Array
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@struct.dataclass
class PretrainingOutput(ModelOutput):
    """BERT-like pretraining: word predictions and the sentence-order score."""

    prediction_logits: Array
    seq_relationship_logits: Array | None = None
    sop_logits: Array | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@struct.dataclass
class Seq2SeqLMOutput(ModelOutput):
    logits: Array
    past_key_values: Cache | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Array | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None


@struct.dataclass
class Seq2SeqSpanOutput(ModelOutput):
    start_logits: Array
    end_logits: Array
    past_key_values: Cache | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Array | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None
