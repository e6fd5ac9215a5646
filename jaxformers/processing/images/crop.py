"""The middle of a picture, and pictures made larger: centre crop, padding at the end, padding to a square."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxformers.core.errors import InputError


def center_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the middle [C,height,width] of an image [C,H,W], with zeros where it is smaller."""
    old_height, old_width = image.shape[-2:]
    top, left = (old_height - height) // 2, (old_width - width) // 2
    if top >= 0 and top + height <= old_height and left >= 0 and left + width <= old_width:
        return image[..., top : top + height, left : left + width]
    new_height, new_width = max(height, old_height), max(width, old_width)
    canvas = np.zeros((*image.shape[:-2], new_height, new_width), image.dtype)
    # Upwards here and downwards above: an odd remainder goes before the picture, as transformers has it.
    above, before = -(-(new_height - old_height) // 2), -(-(new_width - old_width) // 2)
    canvas[..., above : above + old_height, before : before + old_width] = image
    top, left = top + above, left + before
    return canvas[..., max(0, top) : min(new_height, top + height), max(0, left) : min(new_width, left + width)]


def pad_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image [C,H,W] with zeros after it. Raises InputError if it is larger than that already."""
    rows, columns = height - image.shape[-2], width - image.shape[-1]
    if rows < 0 or columns < 0:
        raise InputError(
            f"an image of {image.shape[-2:]} (height, width) does not fit into {(height, width)}: "
            "give a larger pad_size, or a smaller size to resize to"
        )
    return np.pad(image, ((0, 0), (0, rows), (0, columns))) if rows or columns else image


def largest(images: Sequence[np.ndarray]) -> tuple[int, int]:
    """The least height and width that hold every image."""
    return max(x.shape[-2] for x in images), max(x.shape[-1] for x in images)


def pad_to_square(image: np.ndarray, color: Sequence[int] | int) -> np.ndarray:
    """Return an image [C,H,W] in the middle of a square of a colour; a single number colours the first channel."""
    channels, height, width = image.shape
    if height == width:
        return image
    side = max(height, width)
    colors = [color] if isinstance(color, int) else list(color)
    if not isinstance(color, int) and len(colors) != channels:
        raise InputError(
            f"an image of {channels} channels cannot be padded with the {len(colors)} colours of image_mean"
        )
    square = np.zeros((channels, side, side), image.dtype)
    for channel, value in enumerate(colors):
        square[channel] = value
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = image
    return square
