"""Heads of encoder-decoder models: words, one decision for each text, and the two ends of an answer."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput, Seq2SeqSpanOutput
from jaxformers.core.sharding import constrain
from jaxformers.core.state import Cache
from jaxformers.heads.scoring import Scoring
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import ZEROS, param


def records_of(out: Seq2SeqModelOutput) -> dict:
    """What the base model's output passes on to the head's."""
    return {name: value for name, value in out.items() if name != "last_hidden_state"}


class Seq2SeqHead(nn.Module):
    """What every head on an encoder-decoder offers besides its own output."""

    backbone: nn.Module

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def init_cache(self, batch: int, length: int, dtype=jnp.float32, **kwargs) -> Cache:
        """An empty cache for `length` decoder tokens."""
        return self.backbone.init_cache(batch, length, dtype, **kwargs)

    def encode(self, *args, **kwargs) -> BaseModelOutput:
        """Run the encoder alone, to pass its output as `encoder_outputs`."""
        return self.backbone.encode(*args, **kwargs)


class Seq2SeqLM(Seq2SeqHead):
    """Scores of every word: head(x * scale) + bias; with head None the decoder's table is read backwards (tied)."""

    head: nn.Module | None = None
    scale: float = 1.0  # of the hidden states (T5)
    bias: int = 0  # how many words have a bias; BART keeps one that is zero in nearly every checkpoint

    @nn.compact
    def __call__(self, *args, logits_to_keep: int = 0, **kwargs) -> Seq2SeqLMOutput:
        """As the backbone; `logits_to_keep` > 0 scores only that many last tokens."""
        out = self.backbone(*args, **kwargs)
        x = out.last_hidden_state[:, -logits_to_keep:] if logits_to_keep else out.last_hidden_state
        x = x * self.scale if self.scale != 1.0 else x
        logits = self.backbone.embed.attend(x) if self.head is None else self.head(x)
        if self.bias:
            logits = logits + param(self, "bias", ZEROS, (1, self.bias), (None, "vocab"))
        return Seq2SeqLMOutput(logits=constrain(logits, "batch", "length", "vocab"), **records_of(out))

    def scoring(self, *args, **kwargs) -> Scoring:
        """What the scores are made of; the arguments are the backbone's."""
        out = self.backbone(*args, **kwargs)
        x = out.last_hidden_state
        x = x * self.scale if self.scale != 1.0 else x
        h, matrix, bias = (self.head or self.backbone.embed).factors(x)
        if self.bias:
            bias = param(self, "bias", ZEROS, (1, self.bias), (None, "vocab"))[0]
        return Scoring(h, matrix, bias, records_of(out))


class EosClassifier(Seq2SeqHead):
    """head(decoder's output at the last end-of-text token of input_ids); NaN for a text without one."""

    head: nn.Module
    eos: int

    def __call__(self, input_ids: jax.Array | None = None, *args, train: bool = False, **kwargs) -> Seq2SeqLMOutput:
        if input_ids is None:
            raise ValueError("classification needs input_ids, to find each text's end-of-text token")
        out = self.backbone(input_ids, *args, train=train, **kwargs)
        x, ends = out.last_hidden_state, input_ids == self.eos
        if x.shape[1] != ends.shape[1]:
            raise ValueError(f"the decoder's {x.shape[1]} tokens must be as many as input_ids' {ends.shape[1]}")
        last = jnp.argmax(jnp.arange(1, ends.shape[1] + 1) * ends, axis=1)
        picked = jnp.take_along_axis(x, last[:, None, None], axis=1)
        picked = jnp.where(ends.any(axis=1)[:, None, None], picked, jnp.nan)
        return Seq2SeqLMOutput(logits=self.head(picked, train), **records_of(out))


class Seq2SeqSpan(Seq2SeqHead):
    """Scores of each decoder token being the first or the last of the answer."""

    @nn.compact
    def __call__(self, *args, **kwargs) -> Seq2SeqSpanOutput:
        out = self.backbone(*args, **kwargs)
        logits = Linear(2, True, ("embed", None), name="span")(out.last_hidden_state)
        return Seq2SeqSpanOutput(start_logits=logits[..., 0], end_logits=logits[..., 1], **records_of(out))
