"""What a detector found, in the picture's own pixels: scores, labels and boxes of the queries above a threshold."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxformers.core.errors import InputError
from jaxformers.processing.shares import softmax


def post_process_object_detection(
    outputs: Any, threshold: float = 0.5, target_sizes: Any = None
) -> list[dict[str, np.ndarray]]:
    """Return for each picture `scores`, `labels` and `boxes` (x0, y0, x1, y1) of what scores above the threshold.

    target_sizes: (height, width) of each picture, to have boxes in its pixels; else they are shares of it.
    """
    scores, labels = best_classes(outputs.logits)
    centers = np.asarray(outputs.pred_boxes, np.float32)
    middle, half = centers[..., :2], np.float32(0.5) * centers[..., 2:]
    boxes = np.concatenate([middle - half, middle + half], axis=-1)
    if target_sizes is not None:
        sizes = np.asarray(check_sizes(target_sizes, len(scores)), np.float32)
        boxes = boxes * np.concatenate([sizes[:, ::-1]] * 2, axis=1)[:, None]
    keep = scores > threshold
    return [
        {"scores": s[k], "labels": c[k], "boxes": b[k]} for s, c, b, k in zip(scores, labels, boxes, keep, strict=True)
    ]


def best_classes(logits: Any) -> tuple[np.ndarray, np.ndarray]:
    """The score and number of each query's best class [B,Q], "no object" not counted."""
    shares = softmax(np.asarray(logits, np.float32))[..., :-1]
    return shares.max(-1), shares.argmax(-1)


def check_sizes(target_sizes: Any, batch: int) -> list[tuple[int, int]]:
    """The sizes as pairs of (height, width). Raises InputError when there is not one for each picture."""
    sizes = np.asarray(target_sizes)
    if sizes.shape != (batch, 2):
        raise InputError(f"target_sizes holds {len(sizes)} sizes for {batch} images: give (height, width) for each")
    return [(int(height), int(width)) for height, width in sizes]
