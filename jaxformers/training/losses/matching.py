"""Matching: which query answers for which object, at the least cost over all. Source: arXiv:2005.12872."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxformers.ops.cross_entropy import IGNORED
from jaxformers.training.losses.boxes import corners, generalized_iou
from jaxformers.training.losses.output import Batch
from jaxformers.training.losses.running import labels_of

WHOLE = (0.5, 0.5, 1.0, 1.0)  # the box that stands in the place of none
WORST = 1e6  # the cost of what is not finite, which is matched only where nothing else is left


@struct.dataclass
class Objects:
    """The objects of each image: classes Int [B,N], boxes [B,N,4], masks [B,N,H,W] or None; `real` Bool [B,N]."""

    classes: jax.Array
    boxes: jax.Array
    real: jax.Array
    masks: jax.Array | None = None

    @classmethod
    def of(cls, batch: Batch) -> "Objects":
        """The batch's class_labels (-100 where there is no object), boxes and masks."""
        classes = jnp.asarray(labels_of(batch, "class_labels"))
        real = classes != IGNORED
        boxes = jnp.where(real[..., None], jnp.asarray(labels_of(batch, "boxes")), jnp.array(WHOLE, jnp.float32))
        masks = batch.get("masks")
        return cls(classes, boxes, real, None if masks is None else jnp.asarray(masks))


def match(logits: jax.Array, boxes: jax.Array, objects: Objects, config: Any) -> jax.Array:
    """The query of each object, Int [B,N], all of an image different; places without an object take what is left.

    logits [B,Q,C+1], boxes [B,Q,4]. The config's class_cost, bbox_cost and giou_cost weigh the costs.
    """
    queries, places = logits.shape[1], objects.real.shape[1]
    if places > queries:
        raise ValueError(f"the batch has room for {places} objects an image, the model finds {queries}: drop some")
    logits, boxes = (jax.lax.stop_gradient(x.astype(jnp.float32)) for x in (logits, boxes))
    chances = jnp.swapaxes(jax.nn.softmax(logits, axis=-1), 1, 2)
    classes = jnp.where(objects.real, objects.classes, 0)
    likely = jnp.take_along_axis(chances, classes[..., None], axis=1)  # [B,N,Q]
    ours, theirs = boxes[:, None], objects.boxes[:, :, None]
    apart = jnp.abs(ours - theirs).sum(axis=-1)
    agree = generalized_iou(corners(ours), corners(theirs))
    cost = config.bbox_cost * apart - config.class_cost * likely - config.giou_cost * agree
    # What costs the same for every query changes nothing for the others.
    cost = jnp.where(objects.real[..., None], jnp.where(jnp.isfinite(cost), cost, WORST), 0.0)
    return jax.vmap(assign)(cost)


def assign(cost: jax.Array) -> jax.Array:
    """The column of each row of cost [N,Q], N <= Q, all different, that costs least together."""
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    return jnp.zeros(cost.shape[0], jnp.int32).at[rows].set(columns.astype(jnp.int32))


def pad_objects(labels: list[dict[str, Any]], room: int) -> dict[str, np.ndarray]:
    """transformers' labels of images, as the arrays that the losses read, with places for `room` objects each.

    labels: class_labels [n], boxes [n,4] and perhaps masks [n,H,W] of each image; smaller masks are filled with zeros.
    Raises ValueError where an image has more objects.
    """
    most = max((len(one["class_labels"]) for one in labels), default=0)
    if most > room:
        raise ValueError(f"an image has {most} objects; there is room for {room}")
    out = {
        "class_labels": np.full((len(labels), room), IGNORED, np.int32),
        "boxes": np.tile(np.array(WHOLE, np.float32), (len(labels), room, 1)),
    }
    if labels and all("masks" in one for one in labels):
        size = np.max([np.shape(one["masks"])[-2:] for one in labels], axis=0)
        out["masks"] = np.zeros((len(labels), room, *size), np.float32)
    for n, one in enumerate(labels):
        for name, value in out.items():
            given = np.asarray(one[name])
            value[(n, *(slice(0, size) for size in given.shape))] = given
    return out
