"""One decision for each sequence: by the last real token, by the pooled output, or by a small network on the first."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.outputs import LogitsOutput
from jaxformers.heads.lm import records_of
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import dropout


class LastTokenClassifier(nn.Module):
    """Scores of the last token that is not padding, as decoders classify. pad: the padding id, or None."""

    backbone: nn.Module
    labels: int
    pad: int | None = None
    bias: bool = False

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    @nn.compact
    def __call__(self, input_ids: jax.Array | None = None, **kwargs) -> LogitsOutput:
        out = self.backbone(input_ids, **kwargs)
        logits = Linear(self.labels, self.bias, ("embed", None), name="head")(out.last_hidden_state)
        batch, length = logits.shape[:2]
        if self.pad is None and batch > 1:
            raise ValueError(
                "a batch of several texts needs pad_token_id in the config, to find each text's last token"
            )
        last = jnp.full((batch,), length - 1)
        if input_ids is not None and self.pad is not None:
            last = jnp.argmax(jnp.arange(length) * (input_ids != self.pad), axis=-1)
        picked = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]
        return LogitsOutput(logits=picked, **records_of(out))


class PooledClassifier(nn.Module):
    """head(dropout(pooler_output))."""

    backbone: nn.Module
    labels: int
    dropout: float = 0.0

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    @nn.compact
    def __call__(self, input_ids: jax.Array | None = None, train: bool = False, **kwargs) -> LogitsOutput:
        out = self.backbone(input_ids, train=train, **kwargs)
        pooled = dropout(self, out.pooler_output, self.dropout, train)
        logits = Linear(self.labels, True, ("embed", None), name="head")(pooled)
        return LogitsOutput(logits=logits, **records_of(out))


class FirstTokenHead(nn.Module):
    """out(dropout(act(dense(dropout(first token))))): the classifier of RoBERTa and its kin."""

    width: int
    labels: int
    act: Callable = jnp.tanh
    dropout: float = 0.0
    token_dropout: float | None = None  # on the token itself; None: the same rate

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = dropout(self, x[:, 0], self.dropout if self.token_dropout is None else self.token_dropout, train)
        x = self.act(Linear(self.width, True, ("embed", None), name="dense")(x))
        x = dropout(self, x, self.dropout, train)
        return Linear(self.labels, True, ("embed", None), name="out")(x)


class SequenceClassifier(nn.Module):
    """head(last_hidden_state) for heads that pool by themselves."""

    backbone: nn.Module
    head: nn.Module

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(self, input_ids: jax.Array | None = None, train: bool = False, **kwargs) -> LogitsOutput:
        out = self.backbone(input_ids, train=train, **kwargs)
        return LogitsOutput(logits=self.head(out.last_hidden_state, train), **records_of(out))


class MultipleChoice(nn.Module):
    """A classifier with one score, over choices: inputs [B,C,T], logits [B,C]."""

    classifier: nn.Module

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        inputs = self.classifier.dummy_inputs()
        return {k: jax.ShapeDtypeStruct((1, *v.shape), v.dtype) for k, v in inputs.items()}

    def __call__(self, input_ids: jax.Array | None = None, **kwargs) -> LogitsOutput:
        given = input_ids if input_ids is not None else kwargs["inputs_embeds"]
        if given.ndim < 3:
            raise ValueError(f"multiple choice takes inputs [B,C,T], with an axis for choices; got {given.shape}")
        choices = given.shape[1]

        def flat(x):
            return x.reshape(-1, *x.shape[2:]) if hasattr(x, "ndim") and x.ndim >= 3 else x

        out = self.classifier(flat(input_ids), **{k: flat(v) for k, v in kwargs.items()})
        return out.replace(logits=out.logits.reshape(-1, choices))
