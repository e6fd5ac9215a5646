"""Transcripts of overlapping pieces of a recording, joined where they say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Heard:
    """Tokens, and the begin and end of each where they are known."""

    tokens: list[int] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)


def merge(pieces: Sequence[Heard]) -> Heard:
    """Join pieces that overlap by an unknown number of tokens, each at the place where most tokens agree.

    Of the overlap, the first half is taken from the piece before and the second from the piece behind.
    """
    whole, left = Heard(), pieces[0]
    for right in pieces[1:]:
        (left_start, left_stop), (right_start, right_stop) = _best_overlap(left, right)
        middle, start = (left_stop + left_start) // 2, (right_stop + right_start) // 2
        whole.tokens += left.tokens[:middle]
        whole.times += left.times[:middle]
        left = Heard(right.tokens[start:], right.times[start:])
    return Heard(whole.tokens + left.tokens, whole.times + left.times)


def _best_overlap(left: Heard, right: Heard) -> tuple[tuple[int, int], tuple[int, int]]:
    """Slide `right` over the end of `left`; returns the stretches that lie on one another."""
    n, m = len(left.tokens), len(right.tokens)
    a, b = np.asarray(left.tokens), np.asarray(right.tokens)
    best, where = 0.0, ((n, n), (0, 0))
    for shift in range(1, n + m):
        ours = (max(0, n - shift), min(n, n + m - shift))
        theirs = (max(0, shift - n), min(m, shift))
        same = a[slice(*ours)] == b[slice(*theirs)]
        if left.times:  # tokens agree only if time does not run backwards
            pairs = zip(left.times[slice(*ours)], right.times[slice(*theirs)], strict=True)
            same &= np.fromiter((mine <= other for mine, other in pairs), bool, len(same))
        count = int(same.sum())
        score = count / shift + shift / 10000.0  # of equal scores the longer overlap wins
        if count > 1 and score > best:
            best, where = score, (ours, theirs)
    return where
