"""The mel scale of Slaney's Auditory Toolbox, and the triangular filters that whisper hears through."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# Slaney's scale: linear up to 1000 Hz at 200/3 Hz a mel, then 27 mels for every factor of 6.4.
HERTZ_PER_MEL = 200.0 / 3.0
KNEE_HERTZ = 1000.0
KNEE_MEL = KNEE_HERTZ / HERTZ_PER_MEL
MELS_PER_LOG = 27.0 / np.log(6.4)


@dataclass(frozen=True)
class MelBank:
    """A bank of filters: how many, over how many Fourier bins, and the frequencies in hertz they span."""

    mels: int = 80
    bins: int = 201
    sampling_rate: int = 16000
    lowest: float = 0.0
    highest: float = 8000.0


def hertz_to_mel(hertz: np.ndarray) -> np.ndarray:
    """Return frequencies on Slaney's mel scale."""
    hertz = np.asarray(hertz, np.float64)
    above = np.log(np.maximum(hertz, KNEE_HERTZ) / KNEE_HERTZ) * MELS_PER_LOG
    return np.where(hertz >= KNEE_HERTZ, KNEE_MEL + above, hertz / HERTZ_PER_MEL)


def mel_to_hertz(mels: np.ndarray) -> np.ndarray:
    """Return frequencies in hertz from Slaney's mel scale."""
    mels = np.asarray(mels, np.float64)
    above = KNEE_HERTZ * np.exp(np.maximum(mels - KNEE_MEL, 0.0) / MELS_PER_LOG)
    return np.where(mels >= KNEE_MEL, above, mels * HERTZ_PER_MEL)


@lru_cache(maxsize=8)
def mel_filters(bank: MelBank) -> np.ndarray:
    """Return the filters [mels, bins] as float64, read-only; each has area 1 over hertz, as Slaney normalises them."""
    ends = hertz_to_mel(np.array([bank.lowest, bank.highest]))
    corners = mel_to_hertz(np.linspace(ends[0], ends[1], bank.mels + 2))
    bins = np.linspace(0, bank.sampling_rate // 2, bank.bins)
    left, centre, right = (corners[i : i + bank.mels, None] for i in range(3))
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (right - left))
    filters.flags.writeable = False
    return filters
