"""Span corruption: T5's pretraining, in which spans become sentinels and the target says what they were.

Source: arXiv:1910.10683 and its code (random_spans_noise_mask); the layout is that of T5's checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.training.data.collate.padding import DataCollatorForSeq2Seq, Rows, need
from jaxformers.training.data.draws import Draws
from jaxformers.training.data.rows import BadField


@dataclass(frozen=True)
class DataCollatorForSpanCorruption(DataCollatorForSeq2Seq):
    """Rows of input_ids -> inputs with sentinels, and labels: sentinel, what it stands for, ..., eos.

    noise_density: the share of tokens in spans. mean_span: their mean length. eos ends both sides; one that already
    ends a text is not corrupted, those inside packed rows are as other tokens, and attention crosses packed texts as it
    did in T5's training. See `span_lengths` for rows that give batches of one shape.
    """

    noise_density: float = field(default=0.15, kw_only=True)
    mean_span: float = field(default=3.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.noise_density < 1 or self.mean_span < 1:
            raise ValueError(
                f"noise_density must lie between 0 and 1 and mean_span be at least 1; found {self.noise_density} and "
                f"{self.mean_span}"
            )
        if self.tokenizer.eos_token_id is None:
            raise ValueError("span corruption ends texts with the tokenizer's eos_token; it has none")

    def __call__(self, rows: Rows, draws: Draws | None = None) -> dict[str, np.ndarray]:
        draws, sentinels = draws or Draws.fresh(len(rows)), sentinel_ids(self.tokenizer)
        need(rows, "input_ids")
        return super().__call__([self.corrupt(p, row, draws.row(p), sentinels) for p, row in enumerate(rows)])

    def corrupt(self, place: int, row: Mapping[str, Any], draw: np.random.Generator, sentinels: np.ndarray) -> dict:
        """One row as inputs and labels."""
        ids = np.asarray(row["input_ids"])
        if row.get("segment_ids") is not None:
            ids = ids[np.asarray(row["segment_ids"]) > 0]
        else:
            ids = ids[ids != self.tokenizer.pad_token_id]
            ids = ids[:-1] if len(ids) and ids[-1] == self.tokenizer.eos_token_id else ids
        if len(ids) < 2:
            raise BadField(place, "input_ids", f"has {len(ids)} tokens; span corruption needs at least 2")
        noise = noise_mask(len(ids), self.noise_density, self.mean_span, draw)
        spans = 1 + int(np.sum(noise[1:] & ~noise[:-1]))
        if spans > len(sentinels):
            raise BadField(
                place,
                "input_ids",
                f"has {len(ids)} tokens, {spans} spans; the tokenizer has {len(sentinels)} sentinels",
            )
        end = [self.tokenizer.eos_token_id]
        return {
            "input_ids": np.concatenate([with_sentinels(ids, noise, sentinels), end]),
            "labels": np.concatenate([with_sentinels(ids, ~noise, sentinels), end]),
        }


def sentinel_ids(tokenizer: Any) -> np.ndarray:
    """The ids of <extra_id_0>, <extra_id_1>, ... Raises ValueError for a tokenizer without them."""
    vocabulary = tokenizer.get_vocab()
    out = []
    while (token := f"<extra_id_{len(out)}>") in vocabulary:
        out.append(vocabulary[token])
    if not out:
        raise ValueError("span corruption needs the tokens <extra_id_0>, <extra_id_1>, ...; this tokenizer has none")
    return np.array(out)


def noise_mask(length: int, density: float, mean_span: float, draw: np.random.Generator) -> np.ndarray:
    """Which tokens are in spans, Bool [length]: a share `density` of them, never the first one nor all of them."""
    noise, spans = span_counts(length, density, mean_span)
    lengths = np.stack([segmentation(length - noise, spans, draw), segmentation(noise, spans, draw)], axis=1)
    return np.repeat(np.tile([False, True], spans), lengths.reshape(-1))


def span_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """How many of `length` tokens are in spans, and in how many."""
    noise = min(max(int(np.round(length * density)), 1), length - 1)
    return noise, max(min(int(np.round(noise / mean_span)), length - noise), 1)


def span_lengths(length: int, noise_density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """How many tokens a row must have to become inputs of `length`, and how long its labels then are.

    Rows of 568 tokens become T5's inputs of 512, and labels of 114.
    """

    def inputs(tokens: int) -> int:
        noise, spans = span_counts(tokens, noise_density, mean_span)
        return tokens - noise + spans + 1

    tokens = length
    while inputs(tokens + 1) <= length:
        tokens += 1
    noise, spans = span_counts(tokens, noise_density, mean_span)
    return tokens, noise + spans + 1


def segmentation(items: int, segments: int, draw: np.random.Generator) -> np.ndarray:
    """Lengths of `segments` parts of `items`, none empty, all ways alike."""
    firsts = np.arange(items - 1) < segments - 1
    draw.shuffle(firsts)
    return np.bincount(np.cumsum(np.concatenate([[False], firsts])), minlength=segments)


def with_sentinels(ids: np.ndarray, hidden: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """The ids, each hidden span replaced by the next sentinel."""
    first = hidden & ~np.concatenate([[False], hidden[:-1]])
    out = np.where(first, sentinels[np.minimum(np.cumsum(first) - 1, len(sentinels) - 1)], ids)
    return out[first | ~hidden]
