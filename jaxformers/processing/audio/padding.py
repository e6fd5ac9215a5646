"""Waves of different lengths made one batch: cut and padded as transformers' extractors do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxformers.core.errors import InputError

STRATEGIES = ("longest", "max_length", "do_not_pad")
SIDES = ("right", "left")


@dataclass(frozen=True)
class WavePadding:
    """How one call pads and truncates; lengths are in samples."""

    padding: bool | str = False
    max_length: int | None = None
    truncation: bool = False
    pad_to_multiple_of: int | None = None
    side: str = "right"
    value: float = 0.0

    @property
    def strategy(self) -> str:
        """The name of the strategy. Raises InputError for one that is not known, or lacks its length."""
        named = {True: "longest", False: "do_not_pad", None: "do_not_pad"}
        name = named[self.padding] if self.padding is None or isinstance(self.padding, bool) else self.padding
        if name not in STRATEGIES:
            raise InputError(f"padding must be True, False or one of {', '.join(STRATEGIES)}, found {self.padding!r}")
        if name == "max_length" and self.max_length is None:
            raise InputError('padding="max_length" needs max_length, in samples')
        return name

    def rounded(self, length: int) -> int:
        """The length, made a multiple of what was asked for."""
        multiple = self.pad_to_multiple_of
        return length if not multiple else -(-length // multiple) * multiple


def pad_waves(waves: list[np.ndarray], how: WavePadding) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the waves cut and padded, and for each a mask, int32, that is 0 on padding."""
    if how.side not in SIDES:
        raise InputError(f"padding_side must be right or left, found {how.side!r}")
    if how.truncation and how.max_length is None:
        raise InputError("truncation=True needs max_length, in samples")
    strategy = how.strategy
    if how.truncation:
        waves = [wave[: how.rounded(how.max_length or 0)] for wave in waves]
    if strategy == "do_not_pad":
        return waves, [np.ones(len(wave), np.int32) for wave in waves]
    longest = strategy == "longest"
    length = how.rounded(max(len(wave) for wave in waves) if longest else how.max_length or 0)
    pairs = [pad_wave(wave, length, how) for wave in waves]
    return [wave for wave, _ in pairs], [mask for _, mask in pairs]


def pad_wave(wave: np.ndarray, length: int, how: WavePadding) -> tuple[np.ndarray, np.ndarray]:
    """Return one wave padded to a length, if it is shorter, and its mask."""
    missing = max(0, length - len(wave))
    where = (0, missing) if how.side == "right" else (missing, 0)
    mask = np.pad(np.ones(len(wave), np.int32), where)
    return np.pad(wave, where, constant_values=how.value), mask


def normalise(wave: np.ndarray, length: int, value: float) -> np.ndarray:
    """Return a wave with mean 0 and variance 1 over its first `length` samples, and `value` after them."""
    real = wave[:length]
    normal = (wave - real.mean()) / np.sqrt(real.var() + 1e-7)
    normal[length:] = value
    return normal
