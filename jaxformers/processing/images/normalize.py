"""Pixel values to the range a model was trained on: scaled by a factor, then less a mean and over a deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxformers.core.errors import InputError


def rescale(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the image times a factor in float32, multiplied in float64."""
    return (image.astype(np.float64) * factor).astype(np.float32)


def normalize(image: np.ndarray, mean: float | Sequence[float], std: float | Sequence[float]) -> np.ndarray:
    """Return (image - mean) / std by channel of [C,...], in the image's own precision; whole numbers in float32."""
    if image.dtype.kind != "f":
        image = image.astype(np.float32)
    shape = (-1,) + (1,) * (image.ndim - 1)
    return (image - per_channel(mean, image, "image_mean").reshape(shape)) / per_channel(
        std, image, "image_std"
    ).reshape(shape)


def per_channel(values: float | Sequence[float], image: np.ndarray, name: str) -> np.ndarray:
    """One number for each channel. Raises InputError when their counts differ."""
    found = np.asarray(values, image.dtype)
    if found.ndim and len(found) != len(image):
        raise InputError(
            f"{name} has {len(found)} values and the image {len(image)} channels: "
            "pass as many values as channels, or do_convert_rgb=True to make three channels"
        )
    return np.broadcast_to(found, len(image))


def scale_values(image: np.ndarray, factor: float | None, mean: Any, std: Any) -> np.ndarray:
    """Rescale, unless the factor is None, and normalise, unless the mean is None, an image [C,H,W].

    A byte has 256 values, so each channel of bytes is a look into a table made by the same arithmetic: same bits.
    """
    if factor is None and mean is None:
        return image
    table = image.dtype == np.uint8
    values = np.broadcast_to(np.arange(256, dtype=np.uint8), (len(image), 256)) if table else image
    if factor is not None:
        values = rescale(values, factor)
    if mean is not None:
        values = normalize(values, mean, std)
    if not table:
        return values
    out = np.empty(image.shape, values.dtype)
    for channel, row, place in zip(image, values, out, strict=True):
        np.take(row, channel, out=place, mode="clip")  # "clip" alone writes into `out` without a copy
    return out
