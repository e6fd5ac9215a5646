"""Pretraining heads with two aims (words, and how two sentences relate), or that tell real words from replaced ones."""

from collections.abc import Callable

import jax
from flax import linen as nn

from jaxformers.core.outputs import LogitsOutput, PretrainingOutput
from jaxformers.heads.lm import records_of
from jaxformers.heads.scoring import Scoring
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import dropout


class SentencePair(nn.Module):
    """Word predictions, and a score from the pooled output. order: report it as sop_logits (ALBERT)."""

    backbone: nn.Module
    head: nn.Module
    pair: nn.Module
    order: bool = False
    dropout: float = 0.0  # on the pooled output

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(self, input_ids: jax.Array | None = None, train: bool = False, **kwargs) -> PretrainingOutput:
        out = self.backbone(input_ids, train=train, **kwargs)
        scores = self.relation(out.pooler_output, train)
        return PretrainingOutput(
            prediction_logits=self.head(out.last_hidden_state, self.backbone.embed),
            seq_relationship_logits=None if self.order else scores,
            sop_logits=scores if self.order else None,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    def relation(self, pooled: jax.Array, train: bool) -> jax.Array:
        """Two scores of how the sentences relate."""
        return self.pair(dropout(self, pooled, self.dropout, train))

    def scoring(self, input_ids: jax.Array | None = None, train: bool = False, **kwargs) -> Scoring:
        """What the words' scores are made of; `relation` among the records are the pair's."""
        out = self.backbone(input_ids, train=train, **kwargs)
        records = {"relation": self.relation(out.pooler_output, train)}
        return self.head.scoring(out.last_hidden_state, self.backbone.embed, records)


class ReplacedTokens(nn.Module):
    """out(act(dense(x))) for each token, [B,T]: how likely another model put it there (ELECTRA)."""

    backbone: nn.Module
    width: int
    act: Callable

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    @nn.compact
    def __call__(self, input_ids: jax.Array | None = None, **kwargs) -> LogitsOutput:
        out = self.backbone(input_ids, **kwargs)
        x = self.act(Linear(self.width, True, ("embed", None), name="dense")(out.last_hidden_state))
        logits = Linear(1, True, ("embed", None), name="out")(x)
        return LogitsOutput(logits=logits[..., 0], **records_of(out))
