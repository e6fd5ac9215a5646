"""The loss of language models that guess hidden words: each labelled token's score of its own word."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxformers.hub.model import Model
from jaxformers.training.losses.output import Batch, LossOutput
from jaxformers.training.losses.running import labels_of, run
from jaxformers.training.losses.words import WordLoss


@dataclass(frozen=True)
class MaskedLoss(WordLoss):
    """Mean over labelled tokens of the cross-entropy; `labels` [B,T] are -100 where no word was hidden."""

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        labels = jnp.asarray(labels_of(batch, "labels"))
        scoring = run(model, batch, ("labels",), key, method="scoring")
        return self.words(model, scoring, labels)
