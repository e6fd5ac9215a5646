"""A decision for each token, and the two ends of an answer."""

import jax
from flax import linen as nn

from jaxformers.core.outputs import LogitsOutput, SpanOutput
from jaxformers.heads.lm import records_of
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import dropout


class TokenClassifier(nn.Module):
    """head(dropout(last_hidden_state)), [B,T,labels]."""

    backbone: nn.Module
    labels: int
    dropout: float = 0.0
    bias: bool = True

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    @nn.compact
    def __call__(self, input_ids: jax.Array | None = None, train: bool = False, **kwargs) -> LogitsOutput:
        out = self.backbone(input_ids, train=train, **kwargs)
        x = dropout(self, out.last_hidden_state, self.dropout, train)
        return LogitsOutput(logits=Linear(self.labels, self.bias, ("embed", None), name="head")(x), **records_of(out))


class SpanFinder(nn.Module):
    """Scores of each token being the first or the last of the answer; dropout comes before the head."""

    backbone: nn.Module
    dropout: float = 0.0

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    @nn.compact
    def __call__(self, input_ids: jax.Array | None = None, train: bool = False, **kwargs) -> SpanOutput:
        out = self.backbone(input_ids, train=train, **kwargs)
        x = dropout(self, out.last_hidden_state, self.dropout, train)
        logits = Linear(2, True, ("embed", None), name="head")(x)
        records = {k: v for k, v in records_of(out).items() if k in ("past_key_values", "hidden_states", "attentions")}
        return SpanOutput(start_logits=logits[..., 0], end_logits=logits[..., 1], **records)
