"""What a caller gives as sound: one wave or several, as arrays, lists, files or dictionaries, made a list of arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from jaxformers.core.errors import InputError
from jaxformers.processing.audio.load import is_source, load_audio, mono


def list_waves(audio: Any, sampling_rate: int) -> list[np.ndarray]:
    """Return every wave [samples] as float32; a two-dimensional array is a batch of waves.

    Files and dictionaries are resampled to `sampling_rate`. Raises InputError for anything that is no mono wave.
    """
    if is_source(audio):
        return [load_audio(audio, sampling_rate)]
    if isinstance(audio, np.ndarray) and audio.ndim > 2:
        raise InputError(f"only mono sound is read, got an array of shape {audio.shape}: expected [batch, samples]")
    if is_batch(audio):
        waves = [load_audio(w, sampling_rate) if is_source(w) else as_wave(w) for w in audio]
    else:
        waves = [as_wave(audio)]
    if not waves:
        raise InputError("got no sound at all: expected at least one wave")
    return waves


def is_batch(audio: Any) -> bool:
    """Whether this is several waves rather than the samples of one."""
    if hasattr(audio, "ndim"):
        return audio.ndim > 1
    return isinstance(audio, list | tuple) and (len(audio) == 0 or is_source(audio[0]) or not np.isscalar(audio[0]))


def as_wave(wave: Any) -> np.ndarray:
    """Return one wave as float32. Raises InputError if it is empty, not one-dimensional, or an array of integers."""
    array = wave if hasattr(wave, "dtype") else np.asarray(wave, np.float32)
    if array.ndim != 1:
        raise InputError(f"a wave must be a row of samples, got shape {array.shape}: mix its channels down first")
    return mono(np.asarray(array))


def check_rate(given: int | None, expected: int, who: str) -> None:
    """Raise InputError if the caller's sampling rate is not the model's; warn if none was given."""
    if given is None:
        warnings.warn(
            f"pass sampling_rate={expected} to {who}: without it a wave of another rate goes unnoticed", stacklevel=3
        )
    elif given != expected:
        raise InputError(
            f"{who} was made for a sampling rate of {expected} Hz and the sound has {given} Hz: resample it, "
            f'or pass {{"array": wave, "sampling_rate": {given}}} to have it resampled'
        )


def names_rates(audio: Any) -> bool:
    """Whether every sound says its own sampling rate: files and dictionaries do, arrays do not."""
    several = isinstance(audio, list | tuple) and len(audio) > 0
    return is_source(audio) or (several and all(is_source(one) for one in audio))
