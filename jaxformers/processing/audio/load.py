"""Sound files and what stands for them, as one mono wave at the sampling rate a model wants."""

from __future__ import annotations

import importlib
import io
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxformers.core.errors import InputError, MissingExtra
from jaxformers.processing.sources import Limits, read_source, shown

# Sizes that recorders write into a RIFF header when they cannot know the length: a pipe's unknown end.
UNKNOWN_SIZE = 0x7FFFFF00
WAVE_KEYS = ("array", "raw")
CHANNELS_HINT = "a channel is a row, as in [channels, samples]; transpose an array of [samples, channels]"


def is_source(audio: Any) -> bool:
    """Whether this names or holds a sound file, or is a dictionary around a wave, rather than samples."""
    return isinstance(audio, str | os.PathLike | bytes | bytearray | memoryview | Mapping)


def load_audio(audio: Any, sampling_rate: int = 16000, limits: Limits = Limits()) -> np.ndarray:
    """Return a wave [samples], float32, mono, at `sampling_rate` in hertz.

    Takes a path, a web address, a data URL, base64 text, the bytes of a file (wav, flac, mp3, ogg and what else
    libsndfile reads), `{"array" or "raw": wave, "sampling_rate": hertz}` or `{"bytes"/"path": ...}`; an array is
    taken to have the right rate already. Raises InputError when the sound cannot be had or is damaged, MissingExtra
    when soundfile or soxr is needed and not installed.
    """
    if isinstance(audio, Mapping):
        wave, rate = open_mapping(audio, limits)
    elif is_source(audio):
        wave, rate = decode_audio(read_source(audio, limits), shown(audio))
    else:
        wave, rate = np.asarray(audio), sampling_rate
    return resample(mono(wave), sampling_rate if rate is None else rate, sampling_rate)


def open_mapping(audio: Mapping[str, Any], limits: Limits) -> tuple[np.ndarray, int]:
    """Return the wave and rate of a dictionary, as `datasets` and pipelines pass them around."""
    for key in WAVE_KEYS:
        if audio.get(key) is not None:
            if not audio.get("sampling_rate"):
                raise InputError(f'the dictionary has {key!r} and no "sampling_rate": say how many hertz the wave has')
            return np.asarray(audio[key]), int(audio["sampling_rate"])
    for key in ("bytes", "path", "url"):
        if audio.get(key) is not None:
            return decode_audio(read_source(audio[key], limits), shown(audio[key]))
    raise InputError(
        f'a sound given as a dictionary needs "array" with "sampling_rate", "bytes" or "path"; found {sorted(audio)}'
    )


def decode_audio(data: bytes, name: str = "the sound") -> tuple[np.ndarray, int]:
    """Return the samples [channels, samples], float32, and the rate of a sound file's bytes; `name` is for errors.

    Raises InputError for an unknown format, and for a file that ends before the length it announces.
    """
    soundfile = extra("soundfile")
    if not data:
        raise InputError(f"{name} is empty: expected a sound file such as wav, flac or mp3")
    check_riff(data, name)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            announced, rate = file.frames, file.samplerate
            wave = file.read(dtype="float32", always_2d=True).T
    except soundfile.LibsndfileError as error:
        reason = str(error).rpartition(": ")[2].rstrip(".")
        raise InputError(
            f"{name} ({len(data)} bytes, beginning with {data[:4]!r}) is no sound file that can be read ({reason}): "
            "it is cut off, damaged or of an unknown format. Expected wav, flac, mp3 or ogg; convert others with ffmpeg"
        ) from error
    if wave.shape[1] < announced:
        raise InputError(f"{name} is cut off: {wave.shape[1]} of {announced} samples are there; get the whole file")
    if wave.shape[1] == 0:
        raise InputError(f"{name} holds no samples: expected at least one")
    return wave, rate


def check_riff(data: bytes, name: str) -> None:
    """Raise InputError if a wav file ends early: libsndfile reads what is there and says nothing."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    announced = int.from_bytes(data[4:8], "little") + 8
    if len(data) + 1 < announced < UNKNOWN_SIZE:  # the byte that evens out the last chunk is often forgotten
        raise InputError(f"{name} is cut off: {len(data)} of {announced} bytes are there; get the whole file")


def mono(wave: np.ndarray) -> np.ndarray:
    """Return the mean of the channels of [samples] or [channels, samples]. Raises InputError for other shapes."""
    if wave.dtype.kind in "iu":
        scale = np.iinfo(wave.dtype).max + 1
        raise InputError(f"the wave holds {wave.dtype}: expected floats in [-1, 1]; convert it with wave / {scale}.0")
    if wave.dtype.kind != "f" or wave.ndim not in (1, 2) or wave.size == 0:
        raise InputError(f"expected a wave of floats, [samples] or [channels, samples], got {wave.dtype} {wave.shape}")
    if wave.ndim == 2 and wave.shape[0] > wave.shape[1]:
        raise InputError(f"the wave of shape {wave.shape} has more channels than samples: {CHANNELS_HINT}")
    if wave.ndim == 2:
        wave = wave.mean(axis=0) if len(wave) > 1 else wave[0]
    return wave.astype(np.float32, copy=False)


def resample(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return a wave [samples] at another rate by soxr's HQ filter, `ceil(samples * wanted / rate)` samples long."""
    if rate == wanted:
        return np.ascontiguousarray(wave, np.float32)
    if rate <= 0:
        raise InputError(f"a sampling rate must be positive, found {rate} Hz")
    length = math.ceil(len(wave) * wanted / rate)
    changed = extra("soxr").resample(wave, rate, wanted, quality="soxr_hq")
    return np.ascontiguousarray(np.pad(changed, (0, max(0, length - len(changed))))[:length], np.float32)


def extra(name: str) -> Any:
    """Import a package of the `audio` extra. Raises MissingExtra if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"reading and resampling sound needs {name}, which is not installed: pip install 'jaxformers[audio]'"
        ) from error
