"""Losses that compare all rows of a batch with each other; on a mesh that is the whole batch, of all devices.

Under gradient accumulation each micro-batch is compared within itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxformers.heads.transform import mean_real_token
from jaxformers.hub.model import Model
from jaxformers.ops.dot import dot_transposed
from jaxformers.training.losses.categories import categorical
from jaxformers.training.losses.output import Batch, LossOutput, summed
from jaxformers.training.losses.running import labels_of, run


@dataclass(frozen=True)
class ClipLoss:
    """Mean cross-entropy of finding each text's image and each image's text. Source: arXiv:2103.00020."""

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        logits = run(model, batch, ("return_loss",), key).logits_per_text
        return both_ways(logits)


@dataclass(frozen=True)
class SiglipLoss:
    """Sum over pairs of the binary cross-entropy of belonging together, mean over texts. Source: arXiv:2303.15343."""

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        logits = run(model, batch, ("return_loss",), key).logits_per_text.astype(jnp.float32)
        signs = 2.0 * jnp.eye(*logits.shape) - 1.0
        losses = -jax.nn.log_sigmoid(signs * logits).sum(axis=1)
        return summed(losses, jnp.ones(len(losses), bool))


@dataclass(frozen=True)
class PairLoss:
    """InfoNCE: finding each text's partner among all partners of the batch (arXiv:1807.03748), for sentence embeddings.

    Arrays of the first texts have their plain names, those of the second the prefix `positive_`, those of texts that
    are no partner the prefix `negative_`. pool: (hidden states [B,T,D], mask [B,T]) -> [B,D]. Cosines are divided by
    `temperature`. both: also find the first texts from the second.
    """

    temperature: float = 0.05
    pool: Callable = mean_real_token
    both: bool = False

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        parts = [named(batch, prefix) for prefix in ("", "positive_", "negative_")]
        if not parts[1]:
            labels_of(batch, "positive_input_ids")
        ours, theirs, *others = (self.embed(model, p, k) for p, k in zip(parts, keys, strict=True) if p)
        rivals = jnp.concatenate([theirs, *others])
        logits = dot_transposed(ours, rivals) / self.temperature
        if self.both:
            return both_ways(logits[:, : len(ours)])
        return categorical(logits, jnp.arange(len(ours)))

    def embed(self, model: Model, inputs: Batch, key: jax.Array | None) -> jax.Array:
        """Texts as vectors of length one [B,D]."""
        out = run(model, inputs, (), key)
        x = self.pool(out.last_hidden_state, inputs.get("attention_mask")).astype(jnp.float32)
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def named(batch: Batch, prefix: str) -> Batch:
    """The arrays with a prefix, under their plain names; without one those that have none."""
    if prefix:
        return {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}
    return {name: value for name, value in batch.items() if not name.startswith(("positive_", "negative_"))}


def both_ways(logits: jax.Array) -> LossOutput:
    """The mean of both directions' cross-entropies, of scores [B,B] whose diagonal belongs together."""
    own = jnp.arange(len(logits))
    one, other = categorical(logits, own), categorical(logits.T, own)
    return LossOutput((one.total + other.total) / 2, one.weight)
