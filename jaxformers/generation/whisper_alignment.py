"""When each token is said: the way through a decoder's attention to the sound that costs least."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

DIAGONAL, DOWN, ACROSS = 0, 1, 2


STATE = 0.02  # seconds that a state of the encoder stands for


def token_times(weights: np.ndarray, prompt: int, frames: int | None, width: int) -> np.ndarray:
    """The time of each token in seconds, float32 [prompt + N + 1].

    weights [A,N,S]: attention of A heads from N tokens to the encoder's states. frames: of sound, two for each state.
    width: of the median filter. The last token, which no attention was computed for, has the time before it.
    """
    if frames is not None:
        weights = weights[..., : frames // 2]
    times = np.zeros(prompt + weights.shape[1] + 1, np.float32)
    if weights.shape[1] == 0:
        return times
    with np.errstate(invalid="ignore", divide="ignore"):  # of a single token: nothing to compare it with
        spread = weights.std(axis=1, keepdims=True)
        weights = (weights - weights.mean(axis=1, keepdims=True)) / spread
    rows, columns = warp(-median_filter(weights, width).mean(axis=0).astype(np.float64))
    jumps = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    found = columns[jumps] * STATE
    times[prompt:] = [*found, found[-1]]
    return times


def median_filter(x: np.ndarray, width: int) -> np.ndarray:
    """The median of `width` neighbours along the last axis, mirrored at its ends; short ones as they are."""
    if width <= 0 or width % 2 != 1:
        raise ValueError(f"the width of a median filter must be odd and positive, found {width}")
    half = width // 2
    if x.shape[-1] <= half:
        return x
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)], mode="reflect")
    return np.sort(sliding_window_view(padded, width, axis=-1), axis=-1)[..., half]


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic time warping: the rows and columns on the cheapest way through a matrix [N,S], in order."""
    steps = directions(cost)
    i, j = (size - 1 for size in steps.shape)
    rows, columns = [], []
    while i > 0 or j > 0:
        rows.append(i - 1)
        columns.append(j - 1)
        step = ACROSS if i == 0 else DOWN if j == 0 else steps[i, j]
        i -= step != ACROSS
        j -= step != DOWN
    return np.array(rows, int)[::-1], np.array(columns, int)[::-1]


def directions(cost: np.ndarray) -> np.ndarray:
    """Where the cheapest way to each cell comes from, [N+1,S+1], one anti-diagonal at a time; sums in float32."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf, np.float32)
    steps = np.full((n + 1, m + 1), ACROSS, np.int8)
    total[0, 0] = 0
    for diagonal in range(2, n + m + 1):
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        both, down, across = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        choices = [(both < down) & (both < across), (down < both) & (down < across)]
        step = np.select(choices, [DIAGONAL, DOWN], ACROSS)
        best = np.select(choices, [both, down], across)
        total[i, j] = cost[i - 1, j - 1] + best
        steps[i, j] = step
    return steps
