"""New sizes of pictures as transformers computes them from its spellings, and resampling by Pillow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxformers.core.errors import ConfigError, InputError
from jaxformers.processing.images.load import is_pillow
from jaxformers.processing.images.normalize import rescale
from jaxformers.processing.images.pixels import as_array, as_pillow, size_of

Size = Mapping[str, int]
SPELLINGS = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"longest_edge"},
    {"max_height", "max_width"},
    {"min_pixels", "max_pixels"},
)


def read_size(size: Any, square: bool = True, name: str = "size") -> dict[str, int] | None:
    """Return a size with named edges: a number is a square or the shortest edge, a pair is height and width.

    Raises ConfigError for any other spelling.
    """
    if size is None:
        return None
    if isinstance(size, Mapping):
        named = {key: value for key, value in size.items() if value is not None}
    elif isinstance(size, list | tuple) and len(size) == 2:
        named = {"height": size[0], "width": size[1]}
    elif isinstance(size, int) and not isinstance(size, bool):
        named = {"height": size, "width": size} if square else {"shortest_edge": size}
    else:
        named = {}
    if set(named) not in SPELLINGS:
        expected = ", ".join(str(sorted(keys)) for keys in SPELLINGS)
        raise ConfigError(f"{name} is {size!r}: expected a number, [height, width], or a dictionary of {expected}")
    return named


def target_size(height: int, width: int, size: Size) -> tuple[int, int]:
    """Height and width that a size asks for, given those of the picture. Raises ConfigError if it says too little."""
    if size.get("shortest_edge") and size.get("longest_edge"):
        return between_edges(height, width, size["shortest_edge"], size["longest_edge"])
    if size.get("shortest_edge"):
        return to_shortest(height, width, size["shortest_edge"])
    if size.get("max_height") and size.get("max_width"):
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return int(height * scale), int(width * scale)
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    raise ConfigError(
        f"cannot resize to {dict(size)}: give height and width, max_height and max_width, or the shortest_edge"
    )


def to_shortest(height: int, width: int, edge: int) -> tuple[int, int]:
    """The size whose shortest edge is `edge`, in proportion."""
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def between_edges(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """The size whose shortest edge is `shortest` unless the other would pass `longest`, in proportion."""
    short, long = float(min(height, width)), float(max(height, width))
    exact: float = shortest
    if long / short * shortest > longest:
        exact = longest * short / long
        shortest = int(round(exact))
    if min(height, width) == shortest:
        return height, width
    # The longer edge follows the exact shorter one, so that it meets the limit, not its rounded neighbour.
    if width < height:
        return int(exact * height / width), shortest
    return shortest, int(exact * width / height)


def resize(image: Any, size: tuple[int, int], resample: int) -> np.ndarray:
    """Resample a prepared picture to (height, width) with one of Pillow's filters; returns [C,h,w].

    Bytes stay bytes; floats in [0, 1] come back in [0, 1], in float32, rounded to 255 steps as Pillow works in bytes.
    """
    if min(size) < 1 or min(size_of(image)) < 1:
        raise InputError(f"cannot resize an image of {size_of(image)} (height, width) to {size}: both need pixels")
    picture, unit = (image, False) if is_pillow(image) else as_pillow(image)
    resized = as_array(picture.resize((size[1], size[0]), resample=resample))
    return rescale(resized, 1 / 255) if unit else resized
