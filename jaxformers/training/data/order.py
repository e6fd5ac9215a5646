"""In which order an epoch reads the rows of an indexed source: as they are, shuffled, or grouped by length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MOST_GROUPS = 50  # batches sorted together, transformers' default


class Order(Protocol):
    """Row numbers of an epoch, Int [rows]; equal arguments give equal orders."""

    def __call__(self, epoch: int) -> np.ndarray: ...


@dataclass(frozen=True)
class InOrder:
    """0, 1, 2, ..."""

    rows: int

    def __call__(self, epoch: int) -> np.ndarray:
        return np.arange(self.rows)


@dataclass(frozen=True)
class Shuffled:
    """A permutation of its own for every epoch."""

    rows: int
    seed: int

    def __call__(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.rows)


@dataclass(frozen=True, eq=False)
class LengthGrouped:
    """Shuffled, then sorted by length within groups of batches; the longest row comes first.

    As transformers' `group_by_length`: little padding, a random order, and what does not fit memory shows at once.
    """

    lengths: Sequence[int]
    batch_size: int
    seed: int

    def __call__(self, epoch: int) -> np.ndarray:
        lengths = np.asarray(self.lengths)
        order = Shuffled(len(lengths), self.seed)(epoch)
        size = self.batch_size * max(min(len(lengths) // (self.batch_size * 4), MOST_GROUPS), 1)
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        groups = [group[np.argsort(-lengths[group], kind="stable")] for group in groups]
        if groups:
            longest = int(np.argmax([lengths[group[0]] for group in groups]))
            groups[0][0], groups[longest][0] = groups[longest][0], groups[0][0]
        return np.concatenate(groups) if groups else order


@dataclass(frozen=True, eq=False)
class Chosen:
    """An order given by the caller: row numbers, or a function of the epoch that returns them."""

    sampler: object
    rows: int

    def __call__(self, epoch: int) -> np.ndarray:
        numbers = np.asarray(self.sampler(epoch) if callable(self.sampler) else list(self.sampler))  # type: ignore[call-overload]
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise ValueError(f"the sampler gave an array {numbers.dtype}{numbers.shape}; expected row numbers, Int [n]")
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.rows:
            raise ValueError(f"the sampler gave rows {numbers.min()}..{numbers.max()}; the source has {self.rows} rows")
        return numbers


@dataclass(frozen=True, eq=False)
class BucketBatches:
    """Batches of rows that fit one length of `buckets`, with about `tokens` places each: a `batch_sampler`.

    A program is compiled for each bucket and no more, if the collator has the same buckets. multiple: what the number
    of rows is a multiple of, such as that of devices. Rows that fill no batch of their bucket wait for another epoch.
    """

    lengths: Sequence[int]
    buckets: Sequence[int]
    tokens: int
    seed: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        if len(self.lengths) and max(self.lengths) > max(self.buckets):
            raise ValueError(f"the longest row has {max(self.lengths)} tokens, the largest bucket {max(self.buckets)}")

    def __call__(self, epoch: int) -> list[np.ndarray]:
        draw = np.random.default_rng((self.seed, epoch))
        sizes = np.asarray(sorted(self.buckets))
        bucket = np.searchsorted(sizes, np.asarray(self.lengths))
        batches: list[np.ndarray] = []
        for number, size in enumerate(sizes.tolist()):
            rows = draw.permutation(np.flatnonzero(bucket == number))
            count = max(self.tokens // size // self.multiple, 1) * self.multiple
            batches += [rows[i : i + count] for i in range(0, len(rows) - count + 1, count)]
        return [batches[i] for i in draw.permutation(len(batches))]
