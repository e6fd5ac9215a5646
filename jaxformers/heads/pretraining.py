"""Pretraining with two aims: words, and how two sentences relate."""

import jax
from flax import linen as nn

from jaxformers.core.outputs import PretrainingOutput


class SentencePair(nn.Module):
    """Word predictions, and a score from the pooled output. order: report it as sop_logits (ALBERT)."""

    backbone: nn.Module
    head: nn.Module
    pair: nn.Module
    order: bool = False

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(self, input_ids: jax.Array | None = None, **kwargs) -> PretrainingOutput:
        out = self.backbone(input_ids, **kwargs)
        scores = self.pair(out.pooler_output)
        return PretrainingOutput(
            prediction_logits=self.head(out.last_hidden_state, self.backbone.embed),
            seq_relationship_logits=None if self.order else scores,
            sop_logits=scores if self.order else None,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
