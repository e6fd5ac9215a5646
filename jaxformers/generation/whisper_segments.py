"""Segments of a transcript: cut at timestamps, and joined to rows of tokens again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.generation.whisper_settings import STRIDE, Settings

# A segment has transformers' keys: start and end in seconds, tokens, idxs, result, and token_timestamps if wanted.
Segment = dict[str, Any]
Segments = list[Segment]


@dataclass(frozen=True)
class Heard:
    """What was written of one window of sound."""

    tokens: np.ndarray  # without prompt, padding and end
    result: Any  # all tokens, or a dictionary of what was asked for
    prompt: int  # tokens in front
    offset: float  # seconds before the window
    frames: int  # of the window


def cut_segments(heard: Heard, settings: Settings) -> tuple[Segments, int]:
    """Return the segments of a window, and how many frames further to listen."""
    first = settings.timestamp_begin
    stamps = heard.tokens >= first
    cuts = (np.flatnonzero(stamps[:-1] & stamps[1:]) + 1).tolist()
    if not cuts:
        return [segment(heard, settings, (0, len(heard.tokens)), (0.0, whole_end(heard, settings)))], heard.frames
    finished = stamps[-2:].tolist() == [False, True]  # nothing was said after the last timestamp
    if finished:
        cuts.append(len(heard.tokens))
    else:
        cuts[-1] += 1  # both timestamps show that the segment had an end
    segments = []
    for start, stop in zip([0, *cuts], cuts, strict=False):
        last = stop - 1 if finished or stop != cuts[-1] else stop - 2
        places = (start, stop)
        times = tuple(float(int(heard.tokens[at]) - first) for at in (start, last))
        segments.append(segment(heard, settings, places, times))
    if finished:
        return segments, heard.frames
    # What follows the last end is thrown away, and listened to again.
    return segments, (int(heard.tokens[cuts[-1] - 2]) - first) * STRIDE


def whole_end(heard: Heard, settings: Settings) -> float:
    """Where a window without a finished segment ends, in timestamps: at its only one, or at its own end."""
    first = settings.timestamp_begin
    where = np.flatnonzero(heard.tokens >= first)
    if len(where) and heard.tokens[where[-1]] != first:
        return float(int(heard.tokens[where[-1]]) - first)
    return float(int(heard.frames * settings.asked.time_precision_features / settings.asked.time_precision))


def segment(heard: Heard, settings: Settings, places: tuple[int, int], times: tuple[float, ...]) -> Segment:
    """One segment; places among the new tokens, times in steps of the timestamps."""
    start, stop = places
    idxs = (heard.prompt + start, heard.prompt + stop)
    precision = settings.asked.time_precision
    made = {
        "start": heard.offset + times[0] * precision,
        "end": heard.offset + times[1] * precision,
        "tokens": heard.tokens[start:stop],
        "idxs": idxs,
        "result": heard.result,
    }
    if settings.heads:
        made["token_timestamps"] = heard.result["token_timestamps"][slice(*idxs)] + np.float32(heard.offset)
    return made


def padded_sequences(
    rows: Sequence[Segments | None],
    pad: int,
    *,
    side: str = "right",
    begin: np.ndarray | None = None,
    longest: int | None = None,
    double_end: int | None = None,
) -> np.ndarray:
    """The tokens [B,n] of rows of segments.

    begin: tokens in front of each row. longest: keep the last ones only. double_end: the first timestamp, where the
    second of two timestamps at a segment's end is to be left out.
    """
    sequences = [joined(segments or (), longest, double_end) for segments in rows]
    width = max((len(s) for s in sequences), default=0)
    if begin is not None:
        # As transformers measures: a row without segments does not count.
        width = max((len(s) + len(begin) for s, segments in zip(sequences, rows, strict=True) if segments), default=0)
        sequences = [np.concatenate([begin, s]) for s in sequences]
    return np.stack([fitted(s, width, pad, side) for s in sequences]) if rows else np.zeros((0, 0), np.int32)


def joined(segments: Sequence[Segment], longest: int | None, double_end: int | None) -> np.ndarray:
    """The tokens of segments, one after another."""
    parts = [np.zeros(0, np.int32)]
    for one in segments:
        tokens = np.asarray(one["tokens"], np.int32)
        twice = double_end is not None and len(tokens) > 2 and tokens[-2] >= double_end
        parts.append(tokens[:-1] if twice else tokens)
    tokens = np.concatenate(parts)
    return tokens if longest is None else tokens[-longest:]


def padded_times(rows: Sequence[Segments]) -> np.ndarray:
    """The time [B,n] of each token within its window, in seconds; the last one's after the end."""
    empty = np.zeros(0, np.float32)
    parts = [[s["result"]["token_timestamps"][slice(*s["idxs"])] for s in segments] for segments in rows]
    times = [np.concatenate([empty, *pieces]) for pieces in parts]
    width = max((len(t) for t in times), default=0)
    return np.stack([fitted(t, width, t[-1] if len(t) else 0.0, "right") for t in times])


def fitted(tokens: np.ndarray, width: int, pad: Any, side: str) -> np.ndarray:
    """A row padded, or cut on the same side, to a width."""
    more = width - len(tokens)
    if more < 0:
        return tokens[:width] if side == "right" else tokens[-more:]
    return np.pad(tokens, (0, more) if side == "right" else (more, 0), constant_values=pad)
