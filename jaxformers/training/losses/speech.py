"""Losses for recordings: letters for frames (CTC), and voices told apart by angles."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxformers.hub.model import Model
from jaxformers.ops.cross_entropy import IGNORED
from jaxformers.training.losses.categories import categorical
from jaxformers.training.losses.output import Batch, LossOutput, summed
from jaxformers.training.losses.running import labels_of, run


@dataclass(frozen=True)
class CTCLoss:
    """Connectionist temporal classification (doi:10.1145/1143844.1143891), blank being the config's pad_token_id.

    `labels` Int [B,U]; -100 and the blank are left out. Frames count as far as attention_mask reaches. The config's
    ctc_loss_reduction "mean" divides each text's loss by its length and takes the mean over the batch, "sum" sums all;
    a text that its frames cannot spell costs infinity, or nothing with ctc_zero_infinity.
    """

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        c = model.config
        if c.ctc_loss_reduction not in ("mean", "sum"):
            raise ValueError(f"ctc_loss_reduction is {c.ctc_loss_reduction!r}; expected 'mean' or 'sum'")
        labels = jnp.asarray(labels_of(batch, "labels"))
        logits = run(model, batch, ("labels",), key).logits.astype(jnp.float32)
        losses, lengths = ctc(logits, labels, frame_counts(model, batch, logits), c.pad_token_id)
        if c.ctc_zero_infinity:
            losses = jnp.where(jnp.isfinite(losses), losses, 0.0)
        rows = ~(labels == IGNORED).all(axis=1) if labels.shape[1] else jnp.ones(len(labels), bool)
        if c.ctc_loss_reduction == "mean":
            return summed(losses / jnp.maximum(lengths, 1), rows)
        return LossOutput(jnp.where(rows, losses, 0.0).sum(), jnp.float32(1))


def frame_counts(model: Model, batch: Batch, logits: jax.Array) -> jax.Array:
    """How many frames [B] are real."""
    if "attention_mask" not in batch:
        return jnp.full(logits.shape[0], logits.shape[1])
    return model.module.backbone.frame_count(jnp.asarray(batch["attention_mask"]))


def ctc(logits: jax.Array, labels: jax.Array, frames: jax.Array, blank: int) -> tuple[jax.Array, jax.Array]:
    """The loss of each row [B], infinite where it cannot be spelled, and the number of its letters [B]."""
    real = (labels != IGNORED) & (labels != blank)
    order = jnp.argsort(~real, axis=1, stable=True)  # letters first, in their order
    letters, real = jnp.take_along_axis(labels, order, axis=1), jnp.take_along_axis(real, order, axis=1)
    letters = jnp.where(real, letters, blank)
    silent = jnp.arange(logits.shape[1]) >= frames[:, None]
    losses = optax.ctc_loss(logits, silent.astype(jnp.float32), letters, (~real).astype(jnp.float32), blank_id=blank)
    # Equal neighbours need a blank between them.
    lengths = real.sum(axis=1)
    needed = lengths + ((letters[:, 1:] == letters[:, :-1]) & real[:, 1:]).sum(axis=1)
    return jnp.where(frames >= needed, losses, jnp.inf), lengths


@dataclass(frozen=True)
class XVectorLoss:
    """Cross-entropy of scaled cosines, the true voice's lowered by a margin (arXiv:1801.05599); `labels` Int [B]."""

    scale: float = 30.0
    margin: float = 0.4

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        labels = jnp.asarray(labels_of(batch, "labels")).reshape(-1)
        x = run(model, batch, ("labels",), key).logits.astype(jnp.float32)
        voices = model.variables["params"]["classes"].astype(jnp.float32)
        cosines = unit(x, 1) @ unit(voices, 0)
        own = labels[:, None] == jnp.arange(cosines.shape[1])
        return categorical(self.scale * jnp.where(own, cosines - self.margin, cosines), labels)


def unit(x: jax.Array, axis: int) -> jax.Array:
    """x / |x| along an axis, as PyTorch's normalize."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-12)
