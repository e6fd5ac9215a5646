"""Pictures from wherever people have them: paths, web addresses, bytes, base64, Pillow images and arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxformers.core.errors import InputError, MissingExtra
from jaxformers.processing.sources import Limits, read_source, shown

if TYPE_CHECKING:
    from PIL import Image

Picture = "Image.Image | np.ndarray"
ENCODED = (str, Path, bytes, bytearray, memoryview)


def pillow() -> Any:
    """Return the module PIL.Image. Raises MissingExtra when Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra(
            "pictures need Pillow, which is not installed: pip install 'jaxformers[vision]' (or pip install pillow)"
        ) from error
    return Image


def is_pillow(image: Any) -> bool:
    """Whether this is a Pillow image."""
    return isinstance(image, pillow().Image)


def load_image(image: Any, timeout: float | None = None, limits: Limits | None = None) -> Image.Image:
    """Return an upright RGB Pillow image of a path, URL, data URL, base64 text, bytes or Pillow image.

    timeout: seconds for a download, instead of the limits'. Raises InputError when it is no picture, is damaged, or is
    so large that Pillow takes it for a decompression bomb.
    """
    limits = limits or Limits()
    if timeout is not None:
        limits = Limits(limits.size, timeout, limits.redirects)
    if not is_pillow(image):
        image = open_image(read_source(image, limits), shown(image))
    from PIL import ImageOps

    return ImageOps.exif_transpose(decoded(image)).convert("RGB")


def open_image(data: bytes, name: str) -> Image.Image:
    """Decode a picture file. Raises InputError naming the picture."""
    try:
        image = pillow().open(io.BytesIO(data))
        image.load()
    except Exception as error:  # decoders raise whatever the damage led them to
        raise unreadable(name, error) from error
    return image


def decoded(image: Image.Image) -> Image.Image:
    """Make Pillow read a picture that it has only opened. Raises InputError when its file is damaged."""
    try:
        image.load()
    except Exception as error:
        raise unreadable(f"the image {getattr(image, 'filename', '') or repr(image)}", error) from error
    return image


def unreadable(name: str, error: Exception) -> InputError:
    """The error for what Pillow cannot decode, with what to do."""
    kind = type(error).__name__
    if kind == "UnidentifiedImageError":
        return InputError(
            f"{name} is no picture that Pillow can read: expected a PNG, JPEG, WebP, GIF, BMP or TIFF file"
        )
    if kind == "DecompressionBombError":
        return InputError(f"{name} is too large ({error}). If you trust it, raise PIL.Image.MAX_IMAGE_PIXELS.")
    return InputError(f"{name} is a damaged picture ({kind}: {error}). Download or write it again.")


def flat_images(images: Any) -> list[Any]:
    """Return every picture of a single one, a batch, or nested lists, as Pillow images and arrays of two or three axes.

    Encoded pictures are decoded to RGB; arrays of four axes are batches. Raises InputError for anything else.
    """
    if isinstance(images, list | tuple):
        return [image for item in images for image in flat_images(item)]
    if isinstance(images, ENCODED):
        return [load_image(images)]
    if is_pillow(images):
        return [decoded(images)]
    if not hasattr(images, "__array__"):
        raise InputError(
            f"found a {type(images).__name__} among the images: expected a path, a URL, bytes, a Pillow image, "
            "an array [H,W,C] or [C,H,W], or a list of these"
        )
    array = np.asarray(images)
    if array.dtype.kind == "V":  # bfloat16 and its kin, of which numpy knows neither range nor rounding
        array = array.astype(np.float32)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3, 4):
        raise InputError(
            f"found an array of shape {array.shape} and dtype {array.dtype} among the images: "
            "expected numbers [H,W], [H,W,C], [C,H,W] or a batch of the latter two"
        )
    return list(array) if array.ndim == 4 else [array]
