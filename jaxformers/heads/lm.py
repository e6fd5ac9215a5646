"""Language-model heads: scores of every word at every place."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.outputs import LogitsOutput
from jaxformers.core.sharding import constrain
from jaxformers.heads.scoring import Scoring
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import ZEROS, param


def records_of(out) -> dict:
    """What a backbone's output passes on to the head's."""
    names = ("past_key_values", "hidden_states", "attentions", "cross_attentions", "router_logits")
    return {name: getattr(out, name, None) for name in names}


class CausalLM(nn.Module):
    """backbone -> head; with head None the embedding is read backwards (tied weights)."""

    backbone: nn.Module
    head: nn.Module | None = None
    logit_scale: float = 1.0
    softcap: float | None = None

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def init_cache(self, batch: int, length: int, dtype=jnp.float32, **kwargs):
        """An empty cache for `length` tokens."""
        return self.backbone.init_cache(batch, length, dtype, **kwargs)

    def __call__(self, input_ids: jax.Array | None = None, logits_to_keep: int = 0, **kwargs) -> LogitsOutput:
        """As the backbone; `logits_to_keep` > 0 scores only that many last tokens."""
        out = self.backbone(input_ids, **kwargs)
        x = out.last_hidden_state[:, -logits_to_keep:] if logits_to_keep else out.last_hidden_state
        logits = self.backbone.embed.attend(x) if self.head is None else self.head(x)
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        if self.softcap is not None:
            logits = jnp.tanh(logits / self.softcap) * self.softcap
        return LogitsOutput(logits=constrain(logits, "batch", "length", "vocab"), **records_of(out))

    def scoring(self, input_ids: jax.Array | None = None, **kwargs) -> Scoring:
        """What the scores are made of; the arguments are the backbone's."""
        out = self.backbone(input_ids, **kwargs)
        h, matrix, bias = (self.head or self.backbone.embed).factors(out.last_hidden_state)
        return Scoring(h, matrix, bias, records_of(out), self.logit_scale, self.softcap)


class MaskedHead(nn.Module):
    """norm(act(dense(x))), then the words' table or an own one, plus a bias (BERT, RoBERTa, ELECTRA, ...)."""

    width: int
    vocab: int
    act: Callable
    norm: nn.Module
    tied: bool = True
    bias: bool = True
    dense_bias: bool = True

    def setup(self) -> None:
        self.dense = Linear(self.width, self.dense_bias, ("embed", None))
        if not self.tied:
            self.decoder = Linear(self.vocab, False, ("embed", "vocab"))
        self.offset = param(self, "bias", ZEROS, (self.vocab,), ("vocab",)) if self.bias else None

    def transform(self, x: jax.Array) -> jax.Array:
        """What is compared with each word."""
        return self.norm(self.act(self.dense(x)))

    def __call__(self, x: jax.Array, embed: nn.Module) -> jax.Array:
        x = self.transform(x)
        scores = embed.attend(x) if self.tied else self.decoder(x)
        return constrain(scores if self.offset is None else scores + self.offset, "batch", "length", "vocab")

    def scoring(self, x: jax.Array, embed: nn.Module, records: dict) -> Scoring:
        """What the scores are made of."""
        h, matrix, _ = (embed if self.tied else self.decoder).factors(self.transform(x))
        return Scoring(h, matrix, self.offset, records)


class MaskedLM(nn.Module):
    """backbone -> head(x, word table); also the causal head of BERT-like models."""

    backbone: nn.Module
    head: nn.Module

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def init_cache(self, batch: int, length: int, dtype=jnp.float32, **kwargs):
        """An empty cache for `length` tokens, for models that decode."""
        return self.backbone.init_cache(batch, length, dtype, **kwargs)

    def __call__(self, input_ids: jax.Array | None = None, logits_to_keep: int = 0, **kwargs) -> LogitsOutput:
        """As the backbone; `logits_to_keep` > 0 scores only that many last tokens."""
        out = self.backbone(input_ids, **kwargs)
        x = out.last_hidden_state[:, -logits_to_keep:] if logits_to_keep else out.last_hidden_state
        return LogitsOutput(logits=self.head(x, self.backbone.embed), **records_of(out))

    def scoring(self, input_ids: jax.Array | None = None, **kwargs) -> Scoring:
        """What the scores are made of; the arguments are the backbone's."""
        out = self.backbone(input_ids, **kwargs)
        return self.head.scoring(out.last_hidden_state, self.backbone.embed, records_of(out))
