"""A curve drawn with block characters, for terminals."""

import math
from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"


def curve(values: Sequence[float], width: int = 60, height: int = 5) -> list[str]:
    """Lines of text, the highest first: columns as tall as their values, with the largest and smallest beside them.

    More values than columns are averaged; those that are not finite are left out.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return []
    columns = resampled(finite, width)
    low, high = min(columns), max(columns)
    span = (high - low) or 1.0
    steps = height * (len(BLOCKS) - 1)
    heights = [max(1, round((value - low) / span * steps)) for value in columns]
    labels = {height - 1: f"{high:.4g}", 0: f"{low:.4g}"}
    left = max(map(len, labels.values()))
    return [
        f"{labels.get(row, ''):>{left}} ┤{''.join(block(one, row) for one in heights)}"
        for row in reversed(range(height))
    ]


def block(height: int, row: int) -> str:
    """What a column of this height, in eighths, shows in a row."""
    full = len(BLOCKS) - 1
    return BLOCKS[min(max(height - row * full, 0), full)]


def resampled(values: Sequence[float], width: int) -> list[float]:
    """At most `width` values, each the mean of those that fall into its column."""
    if len(values) <= width:
        return list(values)
    edges = [round(column * len(values) / width) for column in range(width + 1)]
    return [math.fsum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
