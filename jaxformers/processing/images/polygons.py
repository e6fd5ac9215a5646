"""COCO's outlines of objects as masks, with its own rule for which pixels an outline holds.

The rule is that of the COCO API (cocodataset/cocoapi, common/maskApi.c): an outline is drawn on a grid five times as
fine, and a column changes side wherever the outline crosses its middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxformers.core.errors import InputError

FINER = 5.0


def segments_to_masks(segments: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Masks [N,height,width] of objects, each a list of polygons (x0, y0, x1, y1, ...) or run lengths."""
    masks = [segment_mask(segment, height, width) for segment in segments]
    return np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)


def segment_mask(segment: Any, height: int, width: int) -> np.ndarray:
    """The mask [height,width] of one object. Raises InputError for what is neither polygons nor run lengths."""
    if isinstance(segment, Mapping):
        return runs_mask(segment, height, width)
    out = np.zeros((height, width), bool)
    for polygon in segment:
        if len(polygon) < 6 or len(polygon) % 2:
            raise InputError(f"a polygon is x0, y0, x1, y1, ... of at least three points, found {len(polygon)} numbers")
        out |= polygon_mask(np.asarray(polygon, np.float64).reshape(-1, 2), height, width)
    return out


def runs_mask(segment: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """The mask of uncompressed run lengths, which go down the columns and begin outside."""
    counts = segment.get("counts")
    if not isinstance(counts, list | tuple) or sum(counts) != height * width:
        raise InputError(
            f"expected run lengths that cover {height} x {width} pixels, as a list: decode compressed ones first"
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def polygon_mask(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels [height,width] that a polygon [N,2] of x and y holds."""
    x, y = outline((FINER * points + 0.5).astype(np.int64))
    crossed = np.flatnonzero(np.diff(x)) + 1
    columns = (np.where(x[crossed] < x[crossed - 1], x[crossed], x[crossed] - 1) + 0.5) / FINER - 0.5
    rows = np.ceil(np.clip((np.minimum(y[crossed], y[crossed - 1]) + 0.5) / FINER - 0.5, 0, height))
    inside = (np.floor(columns) == columns) & (columns >= 0) & (columns <= width - 1)
    flips = columns[inside].astype(np.int64) * height + rows[inside].astype(np.int64)
    sides = np.bincount(flips, minlength=height * width + 1)[: height * width]
    return (np.cumsum(sides) % 2 == 1).reshape(width, height).T


def outline(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All grid points along the closed polygon, in order, corners twice."""
    xs, ys = [], []
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        wide = abs(x1 - x0) >= abs(y1 - y0)
        (start, end), (low, high) = ((x0, x1), (y0, y1)) if wide else ((y0, y1), (x0, x1))
        backwards = start > end
        if backwards:
            start, end, low, high = end, start, high, low
        steps = np.arange(end - start + 1)
        slope = (high - low) / (end - start) if end > start else 0.0
        along, across = start + steps, np.trunc(low + slope * steps + 0.5).astype(np.int64)
        if backwards:
            along, across = along[::-1], across[::-1]
        xs.append(along if wide else across)
        ys.append(across if wide else along)
    return np.concatenate(xs), np.concatenate(ys)
