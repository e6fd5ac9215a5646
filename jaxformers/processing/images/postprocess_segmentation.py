"""Maps of a picture from DETR's masks: a class for each pixel, or the segment it belongs to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxformers.processing.features import BatchFeature
from jaxformers.processing.images.postprocess_detection import check_sizes
from jaxformers.processing.shares import sigmoid, softmax

Sizes = Sequence[tuple[int, int]] | None
NOTHING = -1  # every pixel of a picture in which no segment was found


def post_process_semantic_segmentation(
    outputs: Any, target_sizes: Sizes = None, return_segmentation_scores: bool = False
) -> list[Any]:
    """Return for each picture a map [H,W] of classes, in its target size (height, width) if that is given.

    With return_segmentation_scores a dictionary of `segmentation` and `segmentation_scores` [classes,H,W].
    """
    classes = softmax(np.asarray(outputs.logits, np.float32))[..., :-1]
    masks = sigmoid(np.asarray(outputs.pred_masks, np.float32))
    batch, queries, height, width = masks.shape
    scores = np.swapaxes(classes, 1, 2) @ masks.reshape(batch, queries, height * width)
    pictures = list(scores.reshape(batch, -1, height, width))
    if target_sizes is not None:
        sizes = check_sizes(target_sizes, batch)
        pictures = [resize_bilinear(x, size) for x, size in zip(pictures, sizes, strict=True)]
    maps = [picture.argmax(0) for picture in pictures]
    if not return_segmentation_scores:
        return maps
    pairs = zip(maps, pictures, strict=True)
    return [BatchFeature({"segmentation": m, "segmentation_scores": scores}) for m, scores in pairs]


def post_process_instance_segmentation(
    outputs: Any,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    target_sizes: Sizes = None,
    return_coco_annotation: bool | None = False,
) -> list[dict[str, Any]]:
    """Return for each picture `segmentation` [H,W], numbers of segments, and `segments_info` about each.

    With return_coco_annotation `segmentation` is a list of run lengths, one list for each number in the map. A picture
    in which nothing scores above the threshold has a map of -1.
    """
    limits = (threshold, mask_threshold, overlap_mask_area_threshold)
    found = segment_batch(outputs, limits, (), target_sizes)
    if return_coco_annotation:
        for result in found:
            if result["segments_info"] or (result["segmentation"] != NOTHING).any():
                result["segmentation"] = run_lengths(result["segmentation"])
    return found


def post_process_panoptic_segmentation(
    outputs: Any,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    label_ids_to_fuse: Collection[int] | None = None,
    target_sizes: Sizes = None,
) -> list[dict[str, Any]]:
    """Return for each picture `segmentation` [H,W], numbers of segments, and `segments_info` about each.

    label_ids_to_fuse: classes of which a picture has one segment at most, such as the sky.
    """
    limits = (threshold, mask_threshold, overlap_mask_area_threshold)
    return segment_batch(outputs, limits, label_ids_to_fuse or (), target_sizes)


def segment_batch(
    outputs: Any, limits: tuple[float, float, float], fuse: Collection[int], target_sizes: Sizes
) -> list[dict[str, Any]]:
    """Segments of each picture from the queries that score above the first limit."""
    shares = softmax(np.asarray(outputs.logits, np.float32))
    masks = np.asarray(outputs.pred_masks, np.float32)
    scores, labels = shares.max(-1), shares.argmax(-1)
    sizes = [None] * len(masks) if target_sizes is None else check_sizes(target_sizes, len(masks))
    keep = (labels != shares.shape[-1] - 1) & (scores > limits[0])
    results = []
    for index, size in enumerate(sizes):
        chosen = keep[index]
        if not chosen.any():
            empty = np.full(size or masks.shape[-2:], NOTHING, np.float32)
            results.append({"segmentation": empty, "segments_info": []})
            continue
        probabilities = sigmoid(masks[index][chosen])
        if size is not None:
            probabilities = resize_bilinear(probabilities, size)
        found = segment(probabilities, scores[index][chosen], labels[index][chosen], limits[1:], fuse)
        results.append(dict(zip(("segmentation", "segments_info"), found, strict=True)))
    return results


def segment(
    probabilities: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    limits: tuple[float, float],
    fuse: Collection[int],
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Give every pixel to the query [N,H,W] that is surest of it, and number the queries that keep enough pixels."""
    probabilities = probabilities * scores[:, None, None]
    owners = probabilities.argmax(0)
    out = np.zeros(owners.shape, np.int32)
    segments: list[dict[str, Any]] = []
    fused: dict[int, int] = {}
    current = 0
    for query, label in enumerate(labels.tolist()):
        mine = owners == query
        area = (probabilities[query] >= limits[0]).sum()
        if not mine.any() or not area or float(np.float32(mine.sum()) / np.float32(area)) <= limits[1]:
            continue
        # After a fused segment counting goes on from its number, which transformers does too: numbers may repeat.
        current = fused.get(label, current + 1)
        out[mine] = current
        score = round(float(scores[query]), 6)
        segments.append({"id": current, "label_id": label, "was_fused": label in fuse, "score": score})
        if label in fuse:
            fused[label] = current
    return out, segments


def run_lengths(segmentation: np.ndarray) -> list[list[int]]:
    """For each number in a map, in order, starts (from 1) and lengths of its runs along the rows, in turn."""
    out = []
    for number in np.unique(segmentation):
        mask = np.concatenate([[0], (segmentation == number).ravel().astype(np.int64), [0]])
        runs = np.flatnonzero(mask[1:] != mask[:-1]) + 1
        runs[1::2] -= runs[::2]
        out.append(runs.tolist())
    return out


def resize_bilinear(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize [N,H,W] by linear interpolation between pixels' centres, edges held, as PyTorch without antialias."""
    for axis, length in ((1, size[0]), (2, size[1])):
        place = (np.arange(length, dtype=np.float32) + np.float32(0.5)) * np.float32(x.shape[axis] / length)
        place = np.maximum(place - np.float32(0.5), 0)
        low = place.astype(np.int64)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (place - low).reshape((-1, 1) if axis == 1 else (-1,)).astype(np.float32)
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x
