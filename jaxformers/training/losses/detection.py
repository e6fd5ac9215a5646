"""The losses of models that find a set of objects: classes, boxes and masks of matched queries. arXiv:2005.12872."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.core.errors import DataError
from jaxformers.hub.model import Model
from jaxformers.training.losses.boxes import corners, generalized_iou
from jaxformers.training.losses.matching import Objects, match
from jaxformers.training.losses.output import Batch, LossOutput
from jaxformers.training.losses.running import run

LABELS = ("class_labels", "boxes", "masks")
Parts = dict[str, jax.Array]


@dataclass(frozen=True)
class DetectionLoss:
    """Weighted sum of the losses of classes, box edges, box overlap, and masks where the model draws some.

    The batch has places for N objects an image: class_labels Int [B,N] (-100 for none), boxes [B,N,4] as parts of the
    image (center x, center y, width, height), and masks [B,N,H,W] for segmentation; see `pad_objects`. Weights, costs
    and auxiliary_loss are the config's. Means are over the objects of the whole batch.
    """

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        c, objects = model.config, Objects.of(batch)
        out = run(model, batch, LABELS, key)
        layers = [*(out.auxiliary_outputs or ()), {"logits": out.logits, "pred_boxes": out.pred_boxes}]
        logits, boxes = (jnp.stack([one[name] for one in layers]) for name in ("logits", "pred_boxes"))
        # All layers in one program: the matching is large to compile.
        parts, query = jax.vmap(lambda z, box: found(c, z, box, objects))(logits, boxes)
        loss = weighted(c, {name: part.sum() for name, part in parts.items()})
        count = jnp.maximum(objects.real.sum(), 1).astype(jnp.float32)
        told = {name: part[-1] for name, part in parts.items()}
        if out.pred_masks is not None:
            drawn = jnp.take_along_axis(out.pred_masks, query[-1, ..., None, None], axis=1)
            masks = of_masks(drawn, objects, count)
            loss, told = loss + weighted(c, masks), {**told, **masks}
        told["cardinality_error"] = miscounted(out.logits, objects)
        return LossOutput(loss * count, count, {name: part * count for name, part in told.items()})


def weighted(config: Any, parts: Parts) -> jax.Array:
    """The sum of some losses, by the config's weights."""
    weights = {
        "loss_ce": 1.0,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
        "loss_mask": config.mask_loss_coefficient,
        "loss_dice": config.dice_loss_coefficient,
    }
    return jnp.stack([weights[name] * part for name, part in parts.items()]).sum()


def found(config: Any, logits: jax.Array, boxes: jax.Array, objects: Objects) -> tuple[Parts, jax.Array]:
    """The losses of one layer's queries, and the query of each object [B,N]."""
    query = match(logits, boxes, objects, config)
    count = jnp.maximum(objects.real.sum(), 1)
    boxes = jnp.take_along_axis(boxes.astype(jnp.float32), query[..., None], axis=1)
    apart = jnp.abs(boxes - objects.boxes).sum(axis=-1)
    agree = generalized_iou(corners(boxes), corners(objects.boxes))
    parts = {
        "loss_ce": of_classes(config, logits.astype(jnp.float32), objects, query),
        "loss_bbox": jnp.where(objects.real, apart, 0.0).sum() / count,
        "loss_giou": jnp.where(objects.real, 1.0 - agree, 0.0).sum() / count,
    }
    return parts, query


def of_classes(config: Any, logits: jax.Array, objects: Objects, query: jax.Array) -> jax.Array:
    """Weighted mean cross-entropy of all queries; those without an object weigh eos_coefficient."""
    nothing = config.num_labels
    classes = jnp.where(objects.real, objects.classes, nothing)
    target = jnp.full(logits.shape[:2], nothing).at[jnp.arange(len(query))[:, None], query].set(classes)
    weights = jnp.where(target == nothing, config.eos_coefficient, 1.0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    return (weights * losses).sum() / weights.sum()


def of_masks(scores: jax.Array, objects: Objects, count: jax.Array) -> Parts:
    """Focal and Dice losses of the masks' scores [B,N,h,w], enlarged to the objects' masks."""
    if objects.masks is None:
        raise DataError("segmentation needs `masks` [B,N,H,W] of the objects in the batch")
    target = objects.masks.astype(jnp.float32)
    size = target.shape
    scores = jax.image.resize(scores.astype(jnp.float32), size, "bilinear", antialias=False).reshape(*size[:2], -1)
    target = target.reshape(*size[:2], -1)
    focal = optax.sigmoid_focal_loss(scores, target, alpha=0.25, gamma=2.0).mean(axis=-1)
    chance = jax.nn.sigmoid(scores)
    dice = 1.0 - (2.0 * (chance * target).sum(axis=-1) + 1.0) / (chance.sum(axis=-1) + target.sum(axis=-1) + 1.0)
    real = objects.real
    return {
        "loss_mask": jnp.where(real, focal, 0.0).sum() / count,
        "loss_dice": jnp.where(real, dice, 0.0).sum() / count,
    }


def miscounted(logits: jax.Array, objects: Objects) -> jax.Array:
    """How many objects too many or too few each image's queries see, on average; nothing to train by."""
    seen = (jnp.argmax(logits, axis=-1) != logits.shape[-1] - 1).sum(axis=1)
    return jnp.abs(seen - objects.real.sum(axis=1)).mean(dtype=jnp.float32)
