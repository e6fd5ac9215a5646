"""Losses for images: a class, perhaps of mixed images, and the pixels of hidden patches."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxformers.hub.model import Model
from jaxformers.training.losses.categories import ANSWERS, ClassificationLoss
from jaxformers.training.losses.mixing import cutmix, mixup
from jaxformers.training.losses.output import Batch, LossOutput
from jaxformers.training.losses.running import labels_of, run


@dataclass(frozen=True)
class ImageClassificationLoss(ClassificationLoss):
    """As ClassificationLoss; in training images may be mixed with others of the batch, and their labels with them.

    mixup, cutmix: the parameter of the beta distribution that shares are drawn from (arXiv:1710.09412,
    arXiv:1905.04899); 0 mixes nothing. With both, each batch takes one of them at random.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        if key is None or not (self.mixup or self.cutmix):
            return super().__call__(model, batch, key)
        key, mixing = jax.random.split(key)
        images, labels = jnp.asarray(batch["pixel_values"]), jnp.asarray(labels_of(batch, *ANSWERS))
        classes = model.config.num_labels
        if jnp.issubdtype(labels.dtype, jnp.integer):
            # A class of -100 becomes shares of NaN, which count nothing, nor does what is mixed with it.
            shares = jax.nn.one_hot(labels.reshape(-1), classes)
            labels = jnp.where(labels.reshape(-1, 1) < 0, jnp.nan, shares)
        elif labels.shape != (len(images), classes):
            raise ValueError(f"mixing needs classes [B] or shares [B,{classes}]; labels have shape {labels.shape}")
        images, labels = self.mix(images, labels, mixing)
        logits = run(model, {**batch, "pixel_values": images}, ANSWERS, key).logits
        return self.soft(logits, labels)

    def mix(self, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The batch mixed with itself in one of the ways asked for."""
        first, second = jax.random.split(key)
        if not self.cutmix:
            return mixup(images, labels, second, self.mixup)
        if not self.mixup:
            return cutmix(images, labels, second, self.cutmix)
        cut, blended = cutmix(images, labels, second, self.cutmix), mixup(images, labels, second, self.mixup)
        coin = jax.random.bernoulli(first)
        return jax.tree.map(lambda a, b: jnp.where(coin, a, b), cut, blended)


@dataclass(frozen=True)
class MaskedImageLoss:
    """Mean absolute difference of pixels in hidden patches. Source: arXiv:2111.09886.

    bool_masked_pos [B,patches] is 1 at those; pixel_values [B,C,H,W].
    """

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        c, hidden = model.config, jnp.asarray(labels_of(batch, "bool_masked_pos"))
        images = jnp.asarray(batch["pixel_values"]).astype(jnp.float32)
        out = run(model, batch, (), key)
        side = images.shape[2] // c.patch_size
        hidden = hidden.reshape(-1, side, side).astype(jnp.float32)
        hidden = hidden.repeat(c.patch_size, axis=1).repeat(c.patch_size, axis=2)[:, None]
        total = (jnp.abs(images - out.reconstruction.astype(jnp.float32)) * hidden).sum() / c.num_channels
        return LossOutput(total, hidden.sum() + 1e-5)
