"""Long sound in overlapping pieces: where they lie, and which part of each piece's output counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxformers.core.errors import InputError

Stride = tuple[int, int, int]


@dataclass(frozen=True)
class Chunking:
    """Lengths in samples: of a piece, and of what it shares with the piece before and after it."""

    length: int
    left: int
    right: int

    def __post_init__(self):
        if self.length <= self.left + self.right or min(self.left, self.right) < 0:
            raise InputError(
                f"pieces of {self.length} samples cannot overlap by {self.left} and {self.right}: "
                "the overlaps together must be shorter than a piece"
            )

    @classmethod
    def of_seconds(
        cls,
        chunk_length_s: float,
        stride_length_s: float | Sequence[float] | None,
        sampling_rate: int,
        align_to: int = 1,
    ) -> Chunking:
        """Read lengths in seconds, each rounded to a multiple of `align_to` samples (a CTC model's frame).

        The overlap is a sixth of the piece if none is given, on both sides if one is given.
        """
        stride = chunk_length_s / 6 if stride_length_s is None else stride_length_s
        left, right = (stride, stride) if isinstance(stride, int | float) else stride
        samples = [int(round(x * sampling_rate / align_to) * align_to) for x in (chunk_length_s, left, right)]
        return cls(*samples)


@dataclass(frozen=True)
class Chunk:
    """A piece of a wave; `stride` is its length, and how much of its start and end another piece covers better."""

    start: int
    stride: Stride
    is_last: bool


def iter_chunks(samples: int, chunking: Chunking) -> Iterator[Chunk]:
    """Yield the pieces of a wave of `samples`; a last piece that holds nothing new is left out."""
    for start in range(0, samples, chunking.length - chunking.left - chunking.right):
        end = min(start + chunking.length, samples)
        is_last = start + chunking.length >= samples
        left, right = 0 if start == 0 else chunking.left, 0 if is_last else chunking.right
        if end - start > left:
            yield Chunk(start, (end - start, left, right), is_last)
        if is_last:
            return


def rescale_stride(stride: Stride, ratio: float) -> Stride:
    """Return a stride of samples as one of output frames, `ratio` frames a sample."""
    length, left, right = stride
    frames = int(round(length * ratio))
    return frames, int(round(left / length * frames)), int(round(right / length * frames))


def merge_frames(pieces: Sequence[np.ndarray], strides: Sequence[Stride]) -> np.ndarray:
    """Join the outputs [frames, ...] of pieces, each without what its neighbours cover; strides count frames."""
    kept = [piece[left : length - right] for piece, (length, left, right) in zip(pieces, strides, strict=True)]
    return np.concatenate(kept)
