"""When words and characters are said: places in a CTC model's output as seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def samples_per_frame(conv_stride: Sequence[int]) -> int:
    """Return how many samples one frame of a CTC model's output stands for, from its config's `conv_stride`."""
    return math.prod(conv_stride)


def offsets_to_seconds(offsets: Iterable[Mapping[str, Any]], frame: int, sampling_rate: int) -> list[dict[str, Any]]:
    """Return `{"text", "timestamp": (start, end)}`, in seconds, for a tokenizer's offsets of words or characters.

    `frame` is in samples, `sampling_rate` in hertz.
    """
    rows = []
    for offset in offsets:
        text = next(offset[key] for key in ("word", "char") if key in offset)
        times = tuple(offset[key] * frame / sampling_rate for key in ("start_offset", "end_offset"))
        rows.append({"text": text, "timestamp": times})
    return rows
