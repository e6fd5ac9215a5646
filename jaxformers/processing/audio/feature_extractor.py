"""What every feature extractor is: settings with transformers' names, kept in preprocessor_config.json."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from jaxformers.core.errors import ConfigError

FILE = "preprocessor_config.json"
# Written by older versions or by processors, and made anew from the other settings.
REMADE = ("mel_filters", "window", "processor_class", "feature_extractor_type", "image_processor_type")


class FeatureExtractor:
    """Settings of a feature extractor; those that no subclass names are carried and written back."""

    defaults: ClassVar[dict[str, Any]] = {}
    model_input_names: list[str] = ["input_values"]

    def __init__(self, **settings: Any):
        for name, value in {**self.defaults, **settings}.items():
            if name not in REMADE:
                setattr(self, name, copy.deepcopy(value))
        self.check()

    def check(self) -> None:
        """Raise ConfigError if a setting cannot be meant."""
        for name in ("sampling_rate", "feature_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value <= 0:
                raise ConfigError(f"{type(self).__name__}: {name} must be a positive whole number, found {value!r}")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], **overrides: Any) -> Self:
        """Make an extractor from the contents of preprocessor_config.json; overrides replace its keys."""
        return cls(**{**settings, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Return what preprocessor_config.json holds."""
        return {**copy.deepcopy(self.__dict__), "feature_extractor_type": type(self).__name__}

    def to_json_string(self) -> str:
        """Return preprocessor_config.json."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, folder: str | os.PathLike) -> list[str]:
        """Write preprocessor_config.json to a folder, which is made if need be; returns the path written."""
        home = Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        (home / FILE).write_text(self.to_json_string(), encoding="utf-8")
        return [str(home / FILE)]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]
