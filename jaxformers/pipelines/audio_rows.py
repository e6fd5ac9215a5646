"""Sounds as inputs of pipelines: paths, addresses, bytes, arrays, or dictionaries around a wave."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxformers.pipelines.pipeline import Pipeline
from jaxformers.processing.audio.load import load_audio


class AudioPipeline(Pipeline):
    """A pipeline of sounds."""

    parts = ("feature_extractor",)

    def is_one(self, inputs: Any) -> bool:
        """An array is one sound; a list or an iterator holds several."""
        return isinstance(inputs, np.ndarray) or hasattr(inputs, "__array__") or super().is_one(inputs)

    def wave(self, item: Any) -> np.ndarray:
        """One sound as a mono wave [samples] at the rate the model wants."""
        if not isinstance(item, (str, bytes, Mapping)) and not hasattr(item, "__fspath__"):
            item = np.asarray(item)
            if item.dtype.kind not in "fiu":
                raise ValueError(f"expected a sound, found {type(item).__name__} of dtype {item.dtype}")
        return load_audio(item, self.feature_extractor.sampling_rate)
