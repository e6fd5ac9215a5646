"""One picture as pixels: modes of Pillow, orders of axes, RGB over white, and the shape [C,H,W] that steps share."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxformers.core.errors import InputError
from jaxformers.processing.images.load import is_pillow, pillow

FIRST, LAST = "channels_first", "channels_last"
CHANNELS = (1, 3, 4)
# Pillow images of these modes are resized as they are; of others the numbers are taken as they lie.
PLAIN_MODES = ("RGB", "L")


def prepare(image: Any, convert_rgb: bool | None, data_format: str | None) -> Any:
    """Return a Pillow image of a plain mode, or an array [C,H,W], of a Pillow image or an array.

    data_format: where an array's channels are, "channels_first" or "channels_last"; None infers it from the shape.
    """
    if is_pillow(image):
        image = pillow_rgb(image) if convert_rgb else image
        if image.mode in PLAIN_MODES:
            return image
        array = np.array(image)
        return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    if image.ndim == 2:
        image, data_format = image[None], FIRST
    if (data_format or infer_format(image)) == LAST:
        image = np.moveaxis(image, -1, 0)
    return array_rgb(image) if convert_rgb else image


def infer_format(image: np.ndarray) -> str:
    """Where the channels of an array are; first if both ends could be. Raises InputError if neither could."""
    if image.shape[0] in CHANNELS:
        return FIRST
    if image.shape[-1] in CHANNELS:
        return LAST
    raise InputError(
        f"an image of shape {image.shape} has no axis of 1, 3 or 4 channels at either end: "
        "pass input_data_format='channels_first' or 'channels_last'"
    )


def pillow_rgb(image: Any) -> Any:
    """Return a Pillow image in RGB, what was transparent over white."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = pillow().new("RGBA", image.size, (255, 255, 255, 255))
        return pillow().alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def array_rgb(image: np.ndarray) -> np.ndarray:
    """Return an array [C,H,W] with three channels: grey thrice, a fourth channel as opacity over white."""
    if len(image) == 1:
        return np.repeat(image, 3, axis=0)
    if len(image) != 4:
        return image
    whole = image.dtype.kind in "iu"
    if not whole and (image.min() < 0 or image.max() > 1):
        raise InputError(
            f"an RGBA image of floats must lie in [0, 1] to be converted to RGB, found [{image.min()}, {image.max()}]"
        )
    white = 255 if whole else 1.0
    alpha = image[3:] / white
    rgb = alpha * image[:3] + (1 - alpha) * white
    return (np.round(rgb) if whole else rgb).astype(image.dtype)


def size_of(image: Any) -> tuple[int, int]:
    """Height and width of a prepared picture."""
    return (image.height, image.width) if is_pillow(image) else image.shape[-2:]


def as_array(image: Any) -> np.ndarray:
    """Return a prepared picture as an array [C,H,W]."""
    if not is_pillow(image):
        return image
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def as_pillow(image: np.ndarray) -> tuple[Any, bool]:
    """Return an array [C,H,W] as a Pillow image of bytes, and whether it was in [0, 1] and is now in [0, 255].

    Whole numbers in [0, 255], whatever their dtype, are taken as bytes. Raises InputError for values in neither range.
    """
    unit = not in_bytes(image)
    if unit:
        if image.size and (image.min() < 0 or image.max() > 1 or np.isnan(image).any()):
            raise InputError(
                f"an image with fractions must lie in [0, 1] to be resized, found [{image.min()}, {image.max()}]: "
                "scale it, or pass do_resize=False"
            )
        image = (image.astype(np.float64) * 255).astype(np.float32)
    image = np.moveaxis(image, 0, -1).astype(np.uint8)
    return pillow().fromarray(image[..., 0] if image.shape[-1] == 1 else image), unit


def in_bytes(image: np.ndarray) -> bool:
    """Whether all values are whole numbers in [0, 255], as closely as floats tell. Raises InputError beyond that."""
    if image.dtype == np.uint8:
        return True
    if not np.isfinite(image).all() or not np.allclose(image, image.astype(int)):
        return False
    if image.size and (image.min() < 0 or image.max() > 255):
        raise InputError(
            f"an image to be resized must lie in [0, 255] or [0, 1], found [{image.min()}, {image.max()}]: "
            "scale it, or pass do_resize=False"
        )
    return True
