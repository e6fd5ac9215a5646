"""Spectra over time: overlapping windows of a wave, their power, and whisper's log-mel picture of it."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

FLOOR = 1e-10  # of the power in a mel band, before the logarithm
RANGE = 8.0  # decades below the loudest band that are kept
BLOCK = 1000  # frames transformed at once, so that they stay in the processor's cache


def hann(length: int) -> np.ndarray:
    """Return the periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)


def power_frames(wave: np.ndarray, window: np.ndarray, hop: int) -> np.ndarray:
    """Return the power [frames, bins] of windows centred on every hop of a wave [n]; its ends are mirrored.

    The last window of the usual short-time Fourier transform, centred at the end, is left out as whisper does. Windows
    of the silence that a wave ends with are left out too, so there are at most n // hop.
    """
    half = len(window) // 2
    padded = np.pad(wave.astype(np.float64), half, mode="reflect")
    heard = np.flatnonzero(padded)
    count = min(len(wave) // hop, int(heard[-1]) // hop + 1) if len(heard) else 0
    frames = sliding_window_view(padded, len(window))[::hop][:count]
    power = np.empty((count, half + 1))
    for start in range(0, count, BLOCK):
        spectrum = np.fft.rfft(frames[start : start + BLOCK] * window)
        np.square(spectrum.real, out=power[start : start + BLOCK])
        power[start : start + BLOCK] += np.square(spectrum.imag)
    return power


def log_mel(wave: np.ndarray, filters: np.ndarray, window: np.ndarray, hop: int) -> np.ndarray:
    """Return whisper's features [mels, n // hop], float32, of one wave [n]: base-10 logarithms, shifted and scaled."""
    picture = np.full((len(filters), len(wave) // hop), np.log10(FLOOR), np.float32)
    power = power_frames(wave, window, hop)
    picture[:, : len(power)] = np.log10(np.maximum(filters @ power.T, FLOOR))
    np.maximum(picture, picture.max() - np.float32(RANGE), out=picture)
    return (picture + np.float32(4.0)) / np.float32(4.0)
