"""Language-model heads: scores of every word at every place."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.outputs import LogitsOutput
from jaxformers.core.sharding import constrain
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


class MaskedHead(nn.Module):
    """norm(act(dense(x))), then the words' table or an own one, plus a bias (BERT, RoBERTa, ELECTRA, ...)."""

    width: int
    vocab: int
    act: Callable
    norm: nn.Module
    tied: bool = True
    bias: bool = True
    dense_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, embed: nn.Module) -> jax.Array:
        x = self.act(Linear(self.width, self.dense_bias, ("embed", None), name="dense")(x))
        x = self.norm(x)
        scores = embed.attend(x) if self.tied else Linear(self.vocab, False, ("embed", "vocab"), name="decoder")(x)
        return scores + param(self, "bias", ZEROS, (self.vocab,), ("vocab",)) if self.bias else scores


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
