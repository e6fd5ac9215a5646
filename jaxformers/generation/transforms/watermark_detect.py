"""Finding the watermark of Kirchenbauer et al.: how many tokens are green, against how many would be by chance."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.generation.transforms.watermark import Greenlists, Watermark


@dataclass(frozen=True)
class WatermarkDetectorOutput:
    """What was counted in each row; every field has shape [B]."""

    num_tokens_scored: np.ndarray
    num_green_tokens: np.ndarray
    green_fraction: np.ndarray
    z_score: np.ndarray  # standard deviations above chance
    p_value: np.ndarray
    prediction: np.ndarray  # Bool: marked
    confidence: np.ndarray


def detect_watermark(
    input_ids: jax.Array | np.ndarray,
    mark: Watermark,
    *,
    bos_token_id: int | None = None,
    z_threshold: float = 3.0,
    ignore_repeated_ngrams: bool = False,
) -> WatermarkDetectorOutput:
    """Whether texts [B,T] were written with a watermark of the same settings (arXiv 2306.04634). Leave out the prompt.

    A `bos_token_id` that begins every row is not scored. With `ignore_repeated_ngrams` equal n-grams count once.
    """
    tokens = without_bos(np.asarray(input_ids, np.int64), bos_token_id)
    lists = mark.lists
    if tokens.shape[1] - lists.context_width < 1:
        raise ConfigError(
            f"the seeding scheme needs {lists.context_width} tokens before the first that is scored; got rows of "
            f"{tokens.shape[1]} tokens"
        )
    counts = np.array([count_green(row, lists, ignore_repeated_ngrams) for row in tokens], np.float64)
    scored, green = counts[:, 0], counts[:, 1]
    ratio = lists.greenlist_ratio
    z = (green - ratio * scored) / np.sqrt(scored * ratio * (1 - ratio))
    p = np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in z])
    return WatermarkDetectorOutput(scored, green, green / scored, z, p, z > z_threshold, 1 - p)


def without_bos(tokens: np.ndarray, bos_token_id: int | None) -> np.ndarray:
    """The texts without their first token if that begins them all."""
    begins = tokens[:, 0] == bos_token_id if bos_token_id is not None else np.zeros(len(tokens), bool)
    if begins.any() != begins.all():
        raise ConfigError("some rows begin with bos and others do not: tokenize all rows in the same way")
    return tokens[:, 1:] if begins.all() else tokens


def count_green(row: np.ndarray, lists: Greenlists, once: bool) -> tuple[int, int]:
    """How many n-grams of one text were scored, and how many end in a green token."""
    itself = lists.seeding_scheme == "selfhash"
    size = lists.context_width + (0 if itself else 1)
    ngrams: Any = Counter(tuple(row[at : at + size].tolist()) for at in range(len(row) - size + 1))
    times = dict.fromkeys(ngrams, 1) if once else ngrams
    green = 0
    for ngram, count in times.items():
        context = np.asarray(ngram if itself else ngram[:-1])
        green += count * lists.is_green(context, ngram[-1])
    return sum(times.values()), green
