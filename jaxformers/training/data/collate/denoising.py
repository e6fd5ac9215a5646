"""Denoising: BART's pretraining. Spans of Poisson length become one mask token each, sentences change places.

Source: arXiv:1910.13461, section 2.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.training.data.collate.padding import DataCollatorForSeq2Seq, Rows, need
from jaxformers.training.data.draws import Draws


@dataclass(frozen=True)
class DataCollatorForDenoising(DataCollatorForSeq2Seq):
    """Rows of input_ids -> noisy input_ids, and the row itself as labels.

    mask_ratio: the share of tokens in masked spans. mean_span: the spans' mean length, Poisson; spans of length 0 put a
    mask between two tokens. permute: the share of sentences that change places. sentence_ends: tokens that end a
    sentence; by default those of ".", "!" and "?". Special tokens stay where they are.
    """

    mask_ratio: float = field(default=0.3, kw_only=True)
    mean_span: float = field(default=3.0, kw_only=True)
    permute: float = field(default=1.0, kw_only=True)
    sentence_ends: tuple[int, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("denoising needs a mask token and this tokenizer has none")
        if not 0 <= self.mask_ratio < 1 or not 0 <= self.permute <= 1 or self.mean_span <= 0:
            raise ValueError(
                "mask_ratio must be in [0, 1), permute in [0, 1], mean_span positive; found "
                f"{self.mask_ratio}, {self.permute} and {self.mean_span}"
            )

    def __call__(self, rows: Rows, draws: Draws | None = None) -> dict[str, np.ndarray]:
        need(rows, "input_ids")
        draws = draws or Draws.fresh(len(rows))
        return super().__call__([self.noisy(row, draws.row(place)) for place, row in enumerate(rows)])

    def noisy(self, row: Mapping[str, Any], draw: np.random.Generator) -> dict[str, np.ndarray]:
        """One row as inputs and labels."""
        ids = np.asarray(row["input_ids"])
        inner = ~np.isin(ids, list(self.tokenizer.all_special_ids))
        first = int(np.argmax(inner)) if inner.any() else len(ids)
        last = len(ids) - int(np.argmax(inner[::-1])) if inner.any() else len(ids)
        body = infill(permuted(ids[first:last], self.ends(), self.permute, draw), self, draw)
        return {"input_ids": np.concatenate([ids[:first], body, ids[last:]]), "labels": ids}

    def ends(self) -> np.ndarray:
        """The tokens that end a sentence."""
        if self.sentence_ends is not None:
            return np.array(self.sentence_ends)
        found = [self.tokenizer(mark, add_special_tokens=False)["input_ids"][-1:] for mark in ".!?"]
        return np.array([i for ids in found for i in ids if i != self.tokenizer.unk_token_id])


def permuted(ids: np.ndarray, ends: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """The sentences of a text, a share of them in a random order."""
    stops = np.flatnonzero(np.isin(ids, ends)) + 1
    sentences = [part for part in np.split(ids, stops) if len(part)]
    moved = draw.permutation(len(sentences))[: int(np.ceil(len(sentences) * share))]
    order = np.arange(len(sentences))
    order[np.sort(moved)] = moved
    return np.concatenate([sentences[i] for i in order]) if sentences else ids


def infill(ids: np.ndarray, options: DataCollatorForDenoising, draw: np.random.Generator) -> np.ndarray:
    """The text with spans replaced by one mask each; the spans hold `mask_ratio` of its tokens and never touch."""
    budget = int(np.round(len(ids) * options.mask_ratio))
    lengths: list[int] = []
    while budget > 0:
        lengths.append(min(int(draw.poisson(options.mean_span)), budget))
        budget -= lengths[-1]
        if len(lengths) > len(ids):  # nothing but spans of length 0
            break
    draw.shuffle(lengths)
    kept = len(ids) - sum(lengths)
    lengths = lengths[: kept + 1]  # a place of its own before each kept token, and one at the end
    places = np.sort(draw.permutation(kept + 1)[: len(lengths)])
    parts, at, done = [], 0, 0
    for place, length in zip(places, lengths, strict=True):
        parts += [ids[at : at + place - done], [options.tokenizer.mask_token_id]]
        at, done = at + place - done + length, place
    return np.concatenate([*parts, ids[at:]]).astype(ids.dtype)
