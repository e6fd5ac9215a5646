"""Losses over few classes: of texts, images and recordings, of tokens, of choices, and of an answer's two ends."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.hub.model import Model
from jaxformers.ops.cross_entropy import IGNORED, Scores, cross_entropy
from jaxformers.training.losses.output import Batch, LossOutput, summed
from jaxformers.training.losses.running import labels_of, run, shaped

ANSWERS = ("soft_labels", "labels")
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


def categorical(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> LossOutput:
    """Mean cross-entropy of logits [...,C]; labels [...] are classes, or shares of all classes [...,C].

    Classes of -100 and shares of NaN count nothing.
    """
    labels = jnp.asarray(labels)
    if labels.ndim < logits.ndim:
        losses, _ = cross_entropy(logits, labels, Scores(smoothing=smoothing))
        return summed(losses, labels != IGNORED)
    real = ~jnp.isnan(labels).any(axis=-1)
    shares = (1.0 - smoothing) * jnp.where(real[..., None], labels, 0.0) + smoothing / logits.shape[-1]
    return summed(-(jax.nn.log_softmax(logits.astype(jnp.float32)) * shares).sum(axis=-1), real)


def problem(config: Any, labels: jax.Array) -> str:
    """The config's problem_type, or what the number and the kind of labels say, as transformers guesses it."""
    if config.problem_type is not None:
        if config.problem_type not in PROBLEMS:
            raise ValueError(f"problem_type is {config.problem_type!r}; expected one of {', '.join(PROBLEMS)}")
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    # DeBERTa alone takes floats as shares of the classes.
    whole = jnp.issubdtype(labels.dtype, jnp.integer) or config.model_type == "deberta-v2"
    return "single_label_classification" if whole else "multi_label_classification"


@dataclass(frozen=True)
class ClassificationLoss:
    """The loss of one decision for each row, by the config's problem_type, or as `labels` are.

    Classes Int [B] of which -100 counts nothing: cross-entropy. Floats [B] or [B,C] to regress to: squared error.
    Several labels [B,C] of 0 and 1: binary cross-entropy. `soft_labels` [B,C] are shares of all classes, whatever the
    problem. NaN, or -100 among integers, takes a row out. label_smoothing is for classes.
    """

    label_smoothing: float = 0.0

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        labels = jnp.asarray(labels_of(batch, *ANSWERS))
        logits = run(model, batch, ANSWERS, key).logits
        if "soft_labels" in batch:
            return self.soft(logits, shaped(labels, logits.shape))
        return self.compare(model.config, logits, labels)

    def compare(self, config: Any, logits: jax.Array, labels: jax.Array) -> LossOutput:
        """The loss of logits [B,C]."""
        kind = problem(config, labels)
        if kind == "single_label_classification":
            if jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == logits.shape:
                return self.soft(logits, labels)
            labels = shaped(labels, logits.shape[:1]).astype(jnp.int32)
            if config.model_type == "deberta-v2":
                labels = jnp.where(labels < 0, IGNORED, labels)
            return categorical(logits, labels, self.label_smoothing)
        logits, labels = logits.astype(jnp.float32), shaped(labels, logits.shape)
        absent = labels == IGNORED if jnp.issubdtype(labels.dtype, jnp.integer) else jnp.isnan(labels)
        real = ~absent.any(axis=-1)
        labels = jnp.where(real[:, None], labels, 0).astype(jnp.float32)
        binary = kind == "multi_label_classification"
        losses = optax.sigmoid_binary_cross_entropy(logits, labels) if binary else jnp.square(logits - labels)
        return summed(losses.mean(axis=-1), real)

    def soft(self, logits: jax.Array, shares: jax.Array) -> LossOutput:
        """Mean cross-entropy of logits [B,C] against shares of all classes."""
        return categorical(logits, shares, self.label_smoothing)


@dataclass(frozen=True)
class CategoryLoss:
    """Mean cross-entropy of all decisions: of each token [B,T], frame [B,T], choice [B] or pair of sentences [B].

    `labels` are classes, -100 where none counts, or one-hot vectors along a further axis.
    """

    label_smoothing: float = 0.0

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        labels = jnp.asarray(labels_of(batch, "labels", "next_sentence_label"))
        logits = run(model, batch, ("labels", "next_sentence_label"), key).logits
        if labels.ndim == logits.ndim and labels.shape[-1] == logits.shape[-1]:
            labels = one_hot_classes(labels)
        return categorical(logits, shaped(labels, logits.shape[:-1]), self.label_smoothing)


def one_hot_classes(labels: jax.Array) -> jax.Array:
    """The class of each one-hot vector, -100 where a vector holds NaN or -100."""
    floats = labels.astype(jnp.float32)
    absent = (jnp.isnan(floats) | (floats == IGNORED)).any(axis=-1)
    return jnp.where(absent, IGNORED, jnp.argmax(labels, axis=-1))


@dataclass(frozen=True)
class SpanLoss:
    """Mean of the cross-entropies of an answer's `start_positions` and `end_positions`, [B] each.

    As in transformers, positions beyond the text count nothing and negative ones mean the first token; -100 counts
    nothing.
    """

    label_smoothing: float = 0.0

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        names = ("start_positions", "end_positions")
        places = [jnp.asarray(labels_of(batch, name)).reshape(-1) for name in names]
        out = run(model, batch, names, key)
        ends = [self.one(z, at) for z, at in zip((out.start_logits, out.end_logits), places, strict=True)]
        weight = jnp.maximum(ends[0].weight, ends[1].weight)
        return LossOutput(weight * (ends[0].mean + ends[1].mean) / 2, weight)

    def one(self, logits: jax.Array, at: jax.Array) -> LossOutput:
        """The loss of one end, of scores [B,T]."""
        absent = (at == IGNORED) | (at >= logits.shape[1])
        return categorical(logits, jnp.where(absent, IGNORED, jnp.maximum(at, 0)), self.label_smoothing)
