"""wav2vec 2.0's feature extractor: waves, normalised and padded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from jaxformers.core.errors import InputError
from jaxformers.processing.audio.feature_extractor import FeatureExtractor
from jaxformers.processing.audio.padding import WavePadding, normalise, pad_waves
from jaxformers.processing.audio.waves import check_rate, list_waves, names_rates
from jaxformers.processing.features import BatchFeature


class Wav2Vec2FeatureExtractor(FeatureExtractor):
    """Turns sound into `input_values` [batch, samples] and, if wanted, `attention_mask`."""

    defaults: ClassVar[dict[str, Any]] = {
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
        "do_normalize": True,
    }
    feature_size: int
    sampling_rate: int
    padding_value: float
    padding_side: str
    return_attention_mask: bool
    do_normalize: bool
    model_input_names = ["input_values", "attention_mask"]

    def __call__(
        self,
        raw_speech: Any,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """Read sounds, cut and pad them (lengths in samples), and bring each to mean 0 and variance 1.

        `raw_speech` is a wave or several: arrays, lists, files, addresses, or dictionaries with a sampling rate.
        Without `return_tensors` the values are lists of arrays.
        """
        if not names_rates(raw_speech):
            check_rate(sampling_rate, self.sampling_rate, type(self).__name__)
        how = self.how(padding, max_length, truncation, pad_to_multiple_of)
        waves, masks = pad_waves(list_waves(raw_speech, self.sampling_rate), how)
        wanted = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        if self.do_normalize:
            padded = how.strategy != "do_not_pad"
            if wanted and padded and self.padding_side == "left":
                raise InputError(
                    "do_normalize with padding on the left and an attention mask would measure the padding: "
                    'pass padding_side="right", or return_attention_mask=False'
                )
            # Without a mask transformers measures the padding too, and models used without one were trained on that.
            lengths = [int(mask.sum()) if wanted and padded else len(mask) for mask in masks]
            waves = [normalise(wave, n, self.padding_value) for wave, n in zip(waves, lengths, strict=True)]
        data = {"input_values": waves} | ({"attention_mask": masks} if wanted else {})
        return BatchFeature(data, return_tensors)

    def how(self, padding: bool | str, max_length: int | None, truncation: bool, multiple: int | None) -> WavePadding:
        """How a call with these arguments pads."""
        return WavePadding(padding, max_length, truncation, multiple, self.padding_side, self.padding_value)

    def pad(
        self,
        processed_features: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Pad `input_values` of earlier calls, a dictionary or a list of them, as a collator does."""
        if not isinstance(processed_features, Mapping):
            names = processed_features[0].keys()
            processed_features = {name: [row[name] for row in processed_features] for name in names}
        if "input_values" not in processed_features:
            raise InputError(f"pad needs input_values, found {sorted(processed_features)}")
        rows = [np.asarray(row, np.float32) for row in processed_features["input_values"]]
        waves, masks = pad_waves(rows, self.how(padding, max_length, truncation, pad_to_multiple_of))
        if (given := processed_features.get("attention_mask")) is not None:
            real = iter(np.asarray(mask, np.int32) for mask in given)
            masks = [np.where(mask, _placed(next(real), mask), 0).astype(np.int32) for mask in masks]
        wanted = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        others = {k: v for k, v in processed_features.items() if k not in ("input_values", "attention_mask")}
        data = {**others, "input_values": waves}
        if wanted or given is not None:
            data["attention_mask"] = masks
        return BatchFeature(data, return_tensors or "np")


def _placed(given: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Put a mask of the unpadded row where the row now lies."""
    placed = np.zeros_like(mask)
    where = np.flatnonzero(mask)
    placed[where] = given[: len(where)]
    return placed
