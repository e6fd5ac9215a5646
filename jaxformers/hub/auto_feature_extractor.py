"""`AutoFeatureExtractor`: what turns sound into a model's inputs, by Hub id or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxformers.core.config import read_json
from jaxformers.core.errors import CheckpointError
from jaxformers.hub.named import Named
from jaxformers.processing.audio.feature_extractor import FILE, FeatureExtractor
from jaxformers.processing.audio.wave_features import Wav2Vec2FeatureExtractor
from jaxformers.processing.audio.whisper_features import WhisperFeatureExtractor

FILES = ("preprocessor_config.json", "processor_config.json", "config.json")
CLASSES: dict[str, type[FeatureExtractor]] = {
    "Wav2Vec2FeatureExtractor": Wav2Vec2FeatureExtractor,
    "WhisperFeatureExtractor": WhisperFeatureExtractor,
}
# For files that name no class: by model type, or by the processor's name.
BY_TYPE = {"wav2vec2": Wav2Vec2FeatureExtractor, "whisper": WhisperFeatureExtractor}
BY_PROCESSOR = {"Wav2Vec2Processor": Wav2Vec2FeatureExtractor, "WhisperProcessor": WhisperFeatureExtractor}


class AutoFeatureExtractor(Named[FeatureExtractor]):
    """Loads the feature extractor of a whisper or wav2vec2 checkpoint."""

    files = FILES

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> FeatureExtractor:
        """Load from a local folder or preprocessor_config.json.

        Raises CheckpointError when it names no feature extractor that is known here.
        """
        settings = read_settings(path)
        return class_of(settings, path).from_dict(settings, **overrides)


def read_settings(path: Path) -> dict[str, Any]:
    """Return an extractor's settings: a processor's file that holds them comes before preprocessor_config.json."""
    if path.is_file():
        return read_json(path)
    processor = read_json(path / "processor_config.json") if (path / "processor_config.json").is_file() else {}
    for part in ("feature_extractor", "audio_processor"):
        if part in processor:
            return processor[part]
    if not (path / FILE).is_file():
        found = ", ".join(sorted(item.name for item in path.iterdir())) or "nothing"
        raise CheckpointError(
            f"{path} has no {FILE} and no processor_config.json with a feature extractor (found {found}): "
            "take it from the model's page, or save a feature extractor there"
        )
    return read_json(path / FILE)


def class_of(settings: dict[str, Any], path: Path) -> type[FeatureExtractor]:
    """Return the class that settings name or, in old files, the model's type implies."""
    if name := settings.get("feature_extractor_type"):
        if name in CLASSES:
            return CLASSES[name]
        raise CheckpointError(
            f"{path} names the feature extractor {name!r}, and known are {', '.join(CLASSES)}: "
            "for pictures use AutoImageProcessor"
        )
    if (found := BY_PROCESSOR.get(settings.get("processor_class", ""))) is not None:
        return found
    config = path / "config.json"
    model_type = read_json(config).get("model_type") if path.is_dir() and config.is_file() else None
    if model_type in BY_TYPE:
        return BY_TYPE[model_type]
    raise CheckpointError(
        f"{path} names no feature_extractor_type and its model type is {model_type!r}: "
        f"expected one of {', '.join(BY_TYPE)}; add feature_extractor_type to {FILE}, or use AutoImageProcessor"
    )
