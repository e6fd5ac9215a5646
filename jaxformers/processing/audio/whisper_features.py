"""Whisper's feature extractor: log-mel pictures of sound."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from jaxformers.core.errors import ConfigError, InputError
from jaxformers.processing.audio.feature_extractor import FeatureExtractor
from jaxformers.processing.audio.mel import MelBank, mel_filters
from jaxformers.processing.audio.padding import WavePadding, normalise, pad_waves
from jaxformers.processing.audio.spectrogram import hann, log_mel
from jaxformers.processing.audio.waves import check_rate, list_waves, names_rates
from jaxformers.processing.features import BatchFeature


class WhisperFeatureExtractor(FeatureExtractor):
    """Turns sound into `input_features` [batch, mels, frames]; 30 seconds are 3000 frames."""

    defaults: ClassVar[dict[str, Any]] = {
        "feature_size": 80,
        "sampling_rate": 16000,
        "hop_length": 160,
        "chunk_length": 30,
        "n_fft": 400,
        "padding_value": 0.0,
        "padding_side": "right",
        "dither": 0.0,
        "return_attention_mask": False,
    }
    feature_size: int
    sampling_rate: int
    hop_length: int
    chunk_length: int
    n_fft: int
    padding_value: float
    padding_side: str
    dither: float
    return_attention_mask: bool
    model_input_names = ["input_features"]

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.n_samples = self.chunk_length * self.sampling_rate
        self.nb_max_frames = self.n_samples // self.hop_length

    def check(self) -> None:
        """Raise ConfigError if a setting cannot be meant."""
        super().check()
        for name in ("hop_length", "chunk_length", "n_fft"):
            value = getattr(self, name)
            if not isinstance(value, int) or value <= 0:
                raise ConfigError(f"{type(self).__name__}: {name} must be a positive whole number, found {value!r}")

    @property
    def mel_filters(self) -> np.ndarray:
        """The filters as transformers keeps them: [Fourier bins, mels]."""
        return self.bank.T

    @property
    def bank(self) -> np.ndarray:
        """The filters, [mels, Fourier bins]."""
        return mel_filters(MelBank(self.feature_size, 1 + self.n_fft // 2, self.sampling_rate))

    def __call__(
        self,
        raw_speech: Any,
        truncation: bool = True,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        padding: bool | str | None = "max_length",
        max_length: int | None = None,
        sampling_rate: int | None = None,
        do_normalize: bool | None = None,
        return_token_timestamps: bool | None = None,
    ) -> BatchFeature:
        """Read sounds and return their features; lengths are in samples, by default those of `chunk_length` seconds.

        `raw_speech` is a wave or several: arrays, lists, files, addresses, or dictionaries with a sampling rate. Long
        sound is kept whole by `truncation=False, padding="longest"`. The mask has a column for each frame.
        `return_token_timestamps=True` adds `num_frames`, as transformers 4 did.
        """
        if not names_rates(raw_speech):
            check_rate(sampling_rate, self.sampling_rate, type(self).__name__)
        waves = list_waves(raw_speech, self.sampling_rate)
        length = max_length if max_length else self.n_samples
        how = WavePadding(
            padding or False, length, truncation, pad_to_multiple_of, self.padding_side, self.padding_value
        )
        padded, masks = pad_waves(waves, how)
        if len({len(wave) for wave in padded}) > 1:
            raise InputError(
                'the waves have different lengths and cannot be one batch: pass padding="longest" with '
                'truncation=False, or padding="max_length"'
            )
        if do_normalize:
            pairs = zip(padded, masks, strict=True)
            padded = [normalise(wave, int(mask.sum()), self.padding_value) for wave, mask in pairs]
        data: dict[str, Any] = {"input_features": self.features(np.stack(padded))}
        wanted = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        if wanted:
            frames = data["input_features"].shape[-1]
            data["attention_mask"] = np.stack(masks)[:, :: self.hop_length][:, :frames]
        if return_token_timestamps:
            data["num_frames"] = np.array([len(wave) // self.hop_length for wave in waves])
        return BatchFeature(data, return_tensors)

    def features(self, waves: np.ndarray) -> np.ndarray:
        """Return the log-mel features [batch, mels, samples // hop], float32, of waves [batch, samples]."""
        shortest = self.n_fft // 2 + 1
        if waves.shape[1] < shortest:
            raise InputError(f"{waves.shape[1]} samples are too few: at least {shortest} are needed; pad them")
        if self.dither:
            noise = np.random.standard_normal(waves.shape).astype(np.float32)
            waves = waves + np.float32(self.dither) * noise
        window, bank = hann(self.n_fft), self.bank
        return np.stack([log_mel(wave, bank, window, self.hop_length) for wave in waves])
