"""Time stamps among the tokens of a transcript: written into the text, and as segments with begin and end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Decode = Callable[[list[int]], str]
FRAMES = 1500  # of 0.02 s in a window of audio


def text_with_stamps(tokens: Sequence[int], first: int, precision: float, decode: Decode) -> str:
    """Decode with the stamps written out, as "<|1.08|>"; `first` is the id of the stamp of zero seconds.

    Stamps begin anew in every window; they are written as seconds from the beginning.
    """
    parts: list[Any] = [[]]
    latest = before = windows = 0.0
    for i, token in enumerate(tokens):
        if token < first:
            parts[-1].append(token)
            continue
        stamp = float((token - first) * precision)
        if stamp < latest:
            if single_ending(tokens, i, first):
                windows += precision * FRAMES
            else:
                latest = before
                windows += before
                parts = parts[:-2]
        before, latest = latest, stamp
        parts += [f"<|{stamp + windows:.2f}|>", []]
    return "".join(part if isinstance(part, str) else decode(part) if part else "" for part in parts)


def segments(tokens: Sequence[int], first: int, precision: float, decode: Decode) -> list[dict[str, Any]]:
    """Return `{"text", "timestamp": (begin, end)}` of every stretch between two stamps."""
    stamps = np.asarray(tokens) >= first
    where = np.flatnonzero(stamps)
    cuts = (np.flatnonzero(stamps[:-1] & stamps[1:]) + 1).tolist()
    if len(where) <= 1 and not cuts:
        return []
    last = int(where[-1]) + 1
    cuts += [] if last in cuts else [last]
    found, start, latest, windows = [], int(where[0]), 0, 0
    for cut in cuts:
        if cut - start > 1:
            begin, end = int(tokens[start]) - first, int(tokens[cut - 1]) - first
            if begin < latest:
                windows += FRAMES if single_ending(tokens, start, first) else latest
            latest = end
            times = (begin * precision + windows * precision, end * precision + windows * precision)
            found.append({"text": decode(list(tokens[start:cut])), "timestamp": times})
        start = cut
    return found


def single_ending(tokens: Sequence[int], i: int, first: int) -> bool:
    """Whether the window before token i ended with one stamp, and so was heard to its end."""
    return i >= 2 and not (tokens[i - 1] >= first and tokens[i - 2] >= first)
