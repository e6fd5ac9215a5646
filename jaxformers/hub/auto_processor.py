"""`AutoProcessor`: the tokenizer of a checkpoint together with its image processor or feature extractor."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from jaxformers.core.config import read_optional
from jaxformers.core.errors import CheckpointError, ConfigError
from jaxformers.hub.auto_image_processor import model_type
from jaxformers.hub.auto_tokenizer import FILES as TOKENIZER_FILES
from jaxformers.hub.named import Named
from jaxformers.processing.images.families import BY_TYPE as IMAGE_TYPES
from jaxformers.processing.images.families import PROCESSORS as IMAGE_PROCESSORS
from jaxformers.processing.images.families import processor_name
from jaxformers.processing.images.options import Options
from jaxformers.processing.processor import FILE, PREPROCESSOR, Processor

# Where each processor is defined. A processor's `parts` say what it is made of.
PROCESSORS = {
    "CLIPProcessor": "jaxformers.processing.vision_text",
    "SiglipProcessor": "jaxformers.processing.vision_text",
    "LlavaProcessor": "jaxformers.processing.vision_text",
    "WhisperProcessor": "jaxformers.processing.audio.processors",
    "Wav2Vec2Processor": "jaxformers.processing.audio.processors",
}
# For folders that do not name their processor.
BY_TYPE = {
    **{"clip": "CLIPProcessor", "siglip": "SiglipProcessor", "llava": "LlavaProcessor"},
    **{"whisper": "WhisperProcessor", "wav2vec2": "Wav2Vec2Processor"},
}
# What loads each part.
LOADERS = {
    "tokenizer": ("jaxformers.hub.auto_tokenizer", "AutoTokenizer"),
    "image_processor": ("jaxformers.hub.auto_image_processor", "AutoImageProcessor"),
    "feature_extractor": ("jaxformers.hub.auto_feature_extractor", "AutoFeatureExtractor"),
}
TOKENIZER_CONFIG = "tokenizer_config.json"
FILES = tuple(dict.fromkeys((FILE, PREPROCESSOR, *TOKENIZER_FILES)))
IMAGE_OPTIONS = {field.name for field in fields(Options)}


class AutoProcessor(Named[Any]):
    """Loads all that stands between what a person has and a model's inputs."""

    files = FILES

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> Any:
        """Load a processor from a local folder, or the one part that a checkpoint of one kind of input has.

        Overrides go to the part that has an option of that name, else to the tokenizer. Raises CheckpointError and
        ConfigError.
        """
        if not path.is_dir():
            raise CheckpointError(f"{path} is a file: AutoProcessor reads a folder, with the files of all parts")
        name = named_processor(path)
        if name is None:
            return load_part(only_part(path), path, overrides)
        if name not in PROCESSORS:
            raise ConfigError(f"{path} asks for {name}: there are the processors {', '.join(PROCESSORS)}")
        return load_processor(getattr(importlib.import_module(PROCESSORS[name]), name), path, overrides)


def named_processor(folder: Path) -> str | None:
    """The processor that a folder's files name, or that its model type has; None if the type has none."""
    for file in (FILE, PREPROCESSOR, TOKENIZER_CONFIG):
        if name := read_optional(folder / file).get("processor_class"):
            return name
    return BY_TYPE.get(model_type(folder) or "")


def load_processor(kind: type[Processor], folder: Path, overrides: dict[str, Any]) -> Processor:
    """Load all parts of a processor, each with the overrides that are its own."""
    own = {name: value for name, value in overrides.items() if name in (*kind.options, "chat_template")}
    rest = {name: value for name, value in overrides.items() if name not in own}
    pictures = {name: value for name, value in rest.items() if name in IMAGE_OPTIONS} if has_images(kind) else {}
    shares = {"image_processor": pictures, "tokenizer": {k: v for k, v in rest.items() if k not in pictures}}
    parts = {name: load_part(name, folder, shares.get(name, {})) for name in kind.parts}
    return kind.from_parts(parts, read_optional(folder / FILE), **own)


def has_images(kind: type[Processor]) -> bool:
    """Whether a processor takes pictures."""
    return "image_processor" in kind.parts


def load_part(name: str, folder: str | Path, overrides: dict[str, Any]) -> Any:
    """Load one part of a processor; overrides are those of its own from_pretrained."""
    module, auto = LOADERS[name]
    return getattr(importlib.import_module(module), auto).from_pretrained(folder, **overrides)


def only_part(folder: Path) -> str:
    """The part that a folder without a processor has. Raises CheckpointError if it has none."""
    names = {item.name for item in folder.iterdir()}
    if names & {"tokenizer.json", TOKENIZER_CONFIG}:
        return "tokenizer"
    raw = read_optional(folder / PREPROCESSOR)
    if processor_name(raw) in IMAGE_PROCESSORS or (raw and model_type(folder) in IMAGE_TYPES):
        return "image_processor"
    if raw:
        return "feature_extractor"
    raise CheckpointError(
        f"{folder} has neither a tokenizer nor {PREPROCESSOR} nor {FILE}: nothing to prepare a model's inputs with"
    )
