"""Losses of pretraining heads: words with pairs of sentences, replaced tokens (ELECTRA), codes of sound."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxformers.hub.model import Model
from jaxformers.ops.cross_entropy import IGNORED
from jaxformers.training.losses.categories import categorical
from jaxformers.training.losses.output import Batch, LossOutput, summed
from jaxformers.training.losses.running import labels_of, run
from jaxformers.training.losses.words import WordLoss

PAIRS = ("next_sentence_label", "sentence_order_label")


@dataclass(frozen=True)
class SentencePairLoss(WordLoss):
    """Mean cross-entropy of hidden words (`labels` [B,T]), plus that of how two sentences relate.

    next_sentence_label (BERT) or sentence_order_label (ALBERT): Int [B]. The second mean is weighted by words, so over
    micro-batches it is exact where these hide equally many.
    """

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        labels, relation = jnp.asarray(labels_of(batch, "labels")), jnp.asarray(labels_of(batch, *PAIRS))
        scoring = run(model, batch, ("labels", *PAIRS), key, method="scoring")
        words = self.words(model, scoring, labels)
        pairs = categorical(scoring.records["relation"], relation.reshape(-1))
        return words.told("words").plus(pairs=pairs.mean)


@dataclass(frozen=True)
class ReplacedTokensLoss:
    """Mean binary cross-entropy over real tokens; `labels` [B,T] are 1 where a token was replaced, -100 counts none."""

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        labels = jnp.asarray(labels_of(batch, "labels"))
        logits = run(model, batch, ("labels",), key).logits.astype(jnp.float32)
        counts = labels != IGNORED
        if "attention_mask" in batch:
            counts &= jnp.asarray(batch["attention_mask"]) == 1
        return summed(optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)), counts)


@dataclass(frozen=True)
class SpeechCodesLoss:
    """wav2vec 2.0's contrastive and diversity losses; `total` is transformers' loss, a sum over hidden frames.

    The batch brings mask_time_indices [B,frames] and sampled_negative_indices [B,frames,negatives].
    """

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        hidden = jnp.asarray(labels_of(batch, "mask_time_indices"))
        labels_of(batch, "sampled_negative_indices")
        out = run(model, batch, (), key)
        metrics = {"contrastive_loss": out.contrastive_loss, "diversity_loss": out.diversity_loss}
        return LossOutput(out.loss, hidden.astype(jnp.float32).sum(), metrics)
