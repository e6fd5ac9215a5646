"""The loss of language models that read from left to right: each token's score of the next one."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.hub.model import Model
from jaxformers.nn.seq2seq import CrossDecoder
from jaxformers.ops.cross_entropy import IGNORED
from jaxformers.training.losses.output import Batch, LossOutput
from jaxformers.training.losses.running import labels_of, run
from jaxformers.training.losses.words import WordLoss


@dataclass(frozen=True)
class CausalLoss(WordLoss):
    """Mean over tokens of the next token's cross-entropy; `labels` [B,T] as input_ids, -100 where none counts.

    With segment_ids no token is asked for the first one of the next text. Labels under the name `shift_labels` are
    taken as they stand. router_aux_loss_coef: weight of the loss that evens out experts' load; by default the config's,
    where output_router_logits asks for it.
    """

    router_aux_loss_coef: float | None = None

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        labels = targets(model, batch)
        asked = {} if self.router_aux_loss_coef is None else {"output_router_logits": True}
        scoring = run(model, batch, ("labels", "shift_labels"), key, method="scoring", **asked)
        out = self.words(model, scoring, labels)
        balance = scoring.records.get("aux_loss")
        if balance is None and asked:
            raise ValueError(f"router_aux_loss_coef needs a model with routers; {model} has none")
        return out if balance is None else self.balanced(out, balance, model.config)

    def balanced(self, out: LossOutput, balance: jax.Array, config: Any) -> LossOutput:
        """The loss with the experts' load added."""
        weight = config.router_aux_loss_coef if self.router_aux_loss_coef is None else self.router_aux_loss_coef
        return out.told("cross_entropy").plus(aux_loss=weight * balance)


def targets(model: Model, batch: Batch) -> jax.Array:
    """What each token is to score highest, [B,T]."""
    labels = jnp.asarray(labels_of(batch, "shift_labels", "labels"))
    # As in transformers: whoever trains the decoder of an encoder-decoder model alone has shifted its inputs.
    if "shift_labels" in batch or isinstance(getattr(model.module, "backbone", None), CrossDecoder):
        return labels
    following = jnp.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED)
    if "segment_ids" not in batch:
        return following
    segments = jnp.asarray(batch["segment_ids"])
    same = segments == jnp.pad(segments[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
    return jnp.where(same, following, IGNORED)
