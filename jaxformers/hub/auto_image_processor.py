"""`AutoImageProcessor` and `AutoVideoProcessor`: what turns pictures into a model's inputs, by Hub id or folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

from jaxformers.core.config import read_json, read_optional
from jaxformers.core.errors import CheckpointError, ConfigError
from jaxformers.hub.named import Named
from jaxformers.processing.images.families import BY_TYPE, build_processor
from jaxformers.processing.images.processor import FILE, ImageProcessor

# The processor's file may hold the image processor's settings; config.json tells the type, for files that do not.
PROCESSOR_FILE, CONFIG = "processor_config.json", "config.json"
FILES = (FILE, PROCESSOR_FILE, CONFIG)
BACKENDS = (None, "pil")


class AutoImageProcessor(Named[ImageProcessor]):
    """Loads the image processor of any checkpoint that takes pictures."""

    files = FILES

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> ImageProcessor:
        """Load from a local folder or preprocessor_config.json; overrides replace options.

        Raises CheckpointError and ConfigError.
        """
        check_backend(overrides)
        if path.is_file():
            raw, folder = read_json(path), path.parent
        else:
            raw, folder = image_settings(path), path
        return build_processor(raw, model_type(folder), **overrides)


class AutoVideoProcessor:
    """Refuses: none of the supported model types has a video processor in transformers."""

    def __init__(self) -> NoReturn:
        raise TypeError("AutoVideoProcessor is not an object: call AutoVideoProcessor.from_pretrained(source)")

    @staticmethod
    def from_pretrained(source: str | os.PathLike, **kwargs: Any) -> NoReturn:
        """Raise ConfigError: no supported model type has a video processor."""
        raise ConfigError(
            f"{os.fspath(source)!r}: none of the supported model types takes videos; pictures are read by "
            f"AutoImageProcessor, for the types {', '.join(BY_TYPE)}. Pass a video's frames as images."
        )


def check_backend(overrides: dict[str, Any]) -> None:
    """Take transformers' choice of a backend out of the overrides. Raises ConfigError for another than Pillow."""
    backend, fast = overrides.pop("backend", None), overrides.pop("use_fast", None)
    if backend not in BACKENDS or fast:
        raise ConfigError(
            'images are processed with Pillow: leave out backend and use_fast, or pass backend="pil"; '
            "jaxformers.ops.images.device_preprocess is the fast way on a device"
        )


def image_settings(folder: Path) -> dict[str, Any]:
    """What a folder says of its image processor: in the processor's file, else in a file of its own."""
    if isinstance(nested := read_optional(folder / PROCESSOR_FILE).get("image_processor"), dict):
        return nested
    if not (folder / FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {FILE} and no image processor in {PROCESSOR_FILE}: it has no image processor, "
            "or its files are not all there"
        )
    return read_json(folder / FILE)


def model_type(folder: Path) -> str | None:
    """The model type that a folder's config.json names, None if there is none."""
    return read_optional(folder / CONFIG).get("model_type")
