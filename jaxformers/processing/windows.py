"""Truncation of encoded texts: what is kept, and the overlapping pieces that hold the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jaxformers.processing.padding import no_room

T = TypeVar("T")


def windows(texts: Sequence[Sequence[T]], room: int, truncation: Mapping[str, Any]) -> list[list[Sequence[T]]]:
    """Return rows of one or two texts with at most `room` tokens each; the first is the one that is kept.

    `only_second` leaves a lone text whole. Two texts cut by `longest_first` have no further rows. Raises ValueError
    when the text to cut, or the piece left of it, is too short.
    """
    lengths = [len(text) for text in texts]
    excess = sum(lengths) - room
    strategy, left = truncation["strategy"], truncation["direction"] == "left"
    if excess <= 0 or strategy == "only_second" and len(texts) == 1:
        return [list(texts)]
    if room < 0:
        raise ValueError(no_room(truncation))
    if strategy == "longest_first" and len(texts) == 2:
        sizes = [length - cut for length, cut in zip(lengths, _shares(lengths, excess), strict=True)]
        return [[_end(text, size) if left else text[:size] for text, size in zip(texts, sizes, strict=True)]]
    which = 1 if strategy == "only_second" else 0
    size = lengths[which] - excess
    if size < 0:
        raise ValueError(f"truncation={strategy!r} cannot take {excess} tokens from a text of {lengths[which]}")
    if 0 < size <= truncation["stride"]:
        raise ValueError(no_room(truncation))
    cuts = _cuts(texts[which], size, truncation["stride"], left)
    return [[cut if i == which else text for i, text in enumerate(texts)] for cut in cuts]


def _shares(lengths: Sequence[int], excess: int) -> tuple[int, int]:
    """Take from the longer text until both are equally long, then from both."""
    first, second = lengths
    alone = min(abs(second - first), excess)
    both = excess - alone
    if first > second:
        return alone + both // 2, both - both // 2
    return both // 2, alone + both - both // 2


def _cuts(text: Sequence[T], size: int, stride: int, left: bool) -> list[Sequence[T]]:
    """Cut a text into pieces of `size` tokens that share `stride` tokens, from its start or, `left`, from its end."""
    if size == 0:
        return [text[:0], text]
    step, length = size - stride, len(text)
    if left:
        stops = range(length, 0, -step)
        last = next(i for i, stop in enumerate(stops) if stop <= size)
        return [text[max(stop - size, 0) : stop] for stop in stops[: last + 1]]
    starts = range(0, length, step)
    last = next(i for i, start in enumerate(starts) if start + size >= length)
    return [text[start : start + size] for start in starts[: last + 1]]


def _end(text: Sequence[T], size: int) -> Sequence[T]:
    return text[len(text) - size :]
