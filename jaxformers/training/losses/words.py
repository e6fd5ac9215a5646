"""WordLoss: cross-entropy of a language model's head, taken from hidden states so that large scores are never held."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxformers.heads.scoring import Scoring
from jaxformers.hub.model import Model
from jaxformers.ops.cross_entropy import IGNORED, Scores, linear_cross_entropy
from jaxformers.training.losses.output import LossOutput, summed
from jaxformers.training.losses.running import placed, shaped


@dataclass(frozen=True)
class WordLoss:
    """What all losses over a vocabulary can be told.

    label_smoothing: the share of the uniform target, as transformers' LabelSmoother. z_loss: weight of the square of
    the logarithm of the sum of exponentials (arXiv:2204.02311). chunk: tokens of a device whose scores are held at a
    time; by default all where they are few, else as many as fit in 64 MiB.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    chunk: int | None = None

    def words(self, model: Model, scoring: Scoring, labels: jax.Array) -> LossOutput:
        """The loss of labels [B,T], -100 where none counts."""
        scores = Scores(scoring.scale, scoring.softcap, self.label_smoothing)
        hidden, matrix, bias = scoring.hidden, scoring.matrix, scoring.bias
        labels = shaped(labels, hidden.shape[:2])
        with placed(model):
            losses, total = linear_cross_entropy(hidden, matrix, labels, bias, scores=scores, chunk=self.chunk)
        counts = labels != IGNORED
        out = summed(losses, counts)
        if not self.z_loss:
            return out
        return out.told("cross_entropy").plus(z_loss=self.z_loss * summed(jnp.square(total), counts).mean)
