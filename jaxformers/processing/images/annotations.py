"""COCO annotations, of detection and panoptic, as DETR's targets, and what becomes of them as pictures are resized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxformers.core.errors import ConfigError, InputError
from jaxformers.processing.images.load import open_image, pillow
from jaxformers.processing.images.polygons import segments_to_masks
from jaxformers.processing.sources import read_source, shown

COCO_DETECTION, COCO_PANOPTIC = "coco_detection", "coco_panoptic"
# What an annotation holds, and which of it is a list of dictionaries.
KEYS = {
    COCO_DETECTION: (("image_id", "annotations"), "annotations"),
    COCO_PANOPTIC: (("image_id", "file_name", "segments_info"), "segments_info"),
}
Target = dict[str, Any]
Pair = tuple[int, int]


def check_annotations(annotations: Sequence[Any], kind: Any) -> None:
    """Raise InputError for an annotation without the keys of its kind, ConfigError for an unknown kind."""
    kind = getattr(kind, "value", kind)
    if kind not in KEYS:
        raise ConfigError(f"format is {kind!r}: expected {COCO_DETECTION!r} or {COCO_PANOPTIC!r}")
    names, listed = KEYS[kind]
    for index, annotation in enumerate(annotations):
        complete = isinstance(annotation, Mapping) and all(name in annotation for name in names)
        items = annotation[listed] if complete else None
        if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
            raise InputError(
                f"annotation {index} is no {kind} annotation: expected a dictionary of {', '.join(names)}, "
                f"where {listed} is a list of dictionaries"
            )


def read_target(annotation: Mapping[str, Any], kind: Any, size: Pair, masks: bool | None, folder: Any) -> Target:
    """One picture's annotation as DETR's target; size is (height, width), boxes are corners in pixels.

    masks: whether to make them, by default only of panoptic annotations.
    """
    if getattr(kind, "value", kind) == COCO_DETECTION:
        return detection_target(annotation, size, bool(masks))
    if folder is None:
        raise InputError("panoptic annotations need masks_path, the folder of their PNG files")
    return panoptic_target(annotation, size, masks is None or masks, folder)


def detection_target(annotation: Mapping[str, Any], size: Pair, masks: bool) -> Target:
    """A detection annotation as a target: crowds and empty boxes left out, boxes cut at the picture's edges."""
    objects = [item for item in annotation["annotations"] if item.get("iscrowd", 0) == 0]
    boxes = np.asarray([item["bbox"] for item in objects], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = boxes.clip(0, np.asarray([size[1], size[0]] * 2, np.float32))
    keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    target = {
        "image_id": np.asarray([annotation["image_id"]], np.int64),
        "class_labels": np.asarray([item["category_id"] for item in objects], np.int64)[keep],
        "boxes": boxes[keep],
        "area": np.asarray([item["area"] for item in objects], np.float32)[keep],
        "iscrowd": np.asarray([item.get("iscrowd", 0) for item in objects], np.int64)[keep],
        "orig_size": np.asarray(size, np.int64),
    }
    if objects and "keypoints" in objects[0]:
        points = np.asarray([item["keypoints"] for item in objects], np.float32)[keep]
        target["keypoints"] = points.reshape(-1, 3) if len(points) else points
    if masks:
        target["masks"] = segments_to_masks([item["segmentation"] for item in objects], *size)[keep]
    return target


def panoptic_target(annotation: Mapping[str, Any], size: Pair, masks: bool, folder: str | Path) -> Target:
    """A panoptic annotation as a target: its PNG's colours are numbers of segments, in base 256."""
    path = Path(folder) / annotation["file_name"]
    colors = np.asarray(open_image(read_source(path), shown(path)), np.uint32)
    if colors.ndim != 3 or colors.shape[-1] < 3:
        raise InputError(f"{shown(path)} has no three colour channels: expected a PNG of panoptic segments in RGB")
    numbers = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    segments = annotation["segments_info"]
    found = (numbers == np.array([item["id"] for item in segments], np.int64)[:, None, None]).astype(np.uint8)
    target = {
        "image_id": np.asarray([annotation["image_id"]], np.int64),
        "size": np.asarray(size, np.int64),
        "orig_size": np.asarray(size, np.int64),
        "boxes": mask_boxes(found),
        "class_labels": np.array([item["category_id"] for item in segments], np.int64),
        "iscrowd": np.asarray([item["iscrowd"] for item in segments], np.int64),
        "area": np.asarray([item["area"] for item in segments], np.float32),
    }
    return {**target, "masks": found} if masks else target


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """The corners (x0, y0, x1, y1) around each of masks [N,H,W]; an empty mask has (1e8, 1e8, 0, 0)."""
    if masks.size == 0:
        return np.zeros((0, 4))
    out = np.empty((len(masks), 4), np.float32)
    for box, mask in zip(out, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1], rows[-1]
        else:
            box[:] = 1e8, 1e8, 0, 0
    return out


def resize_target(target: Target, old: Pair, new: Pair) -> Target:
    """A target whose picture went from one (height, width) to another."""
    rows, columns = (float(x) / float(y) for x, y in zip(new, old, strict=True))
    out = {**target, "size": tuple(new)}
    out["boxes"] = target["boxes"] * np.asarray([columns, rows, columns, rows], np.float32)
    out["area"] = target["area"] * (columns * rows)
    if "masks" in target:
        masks = [resize_mask(mask, new) for mask in target["masks"]]
        out["masks"] = np.stack(masks) if masks else np.zeros((0, *new), bool)
    return out


def resize_mask(mask: np.ndarray, size: Pair) -> np.ndarray:
    """A mask [H,W] of zeros and ones in a new size, each pixel its nearest old one."""
    image = pillow().fromarray(mask.astype(np.uint8))
    return np.asarray(image.resize((size[1], size[0]), resample=0)) > 0.5


def normalize_boxes(target: Target, size: Pair) -> Target:
    """A target whose boxes are (center x, center y, width, height) as shares of the picture."""
    x0, y0, x1, y1 = target["boxes"].T
    boxes = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=-1)
    boxes /= np.asarray([size[1], size[0]] * 2, np.float32)
    return {**target, "boxes": boxes}


def pad_target(target: Target, size: Pair, padded: Pair, boxes_too: bool) -> Target:
    """A target whose picture was padded at its end; boxes_too: they are shares of the picture."""
    out = {**target, "size": tuple(padded)}
    if boxes_too:
        ratio = np.asarray([size[1] / padded[1], size[0] / padded[0]] * 2)
        out["boxes"] = (target["boxes"] * ratio).astype(target["boxes"].dtype)
    if "masks" in target:
        out["masks"] = np.pad(target["masks"], ((0, 0), (0, padded[0] - size[0]), (0, padded[1] - size[1])))
    return out
