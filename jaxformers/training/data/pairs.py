"""Packing for encoder-decoders: several pairs of a source and a target in one row, each a segment on both sides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.core.errors import DataError
from jaxformers.training.data.rows import Row
from jaxformers.training.data.stages import Stage, Windowed

IGNORED = -100
Fields = dict[str, np.ndarray]


@dataclass(frozen=True)
class FitPairs:
    """Packs rows of input_ids and labels in rows of `length` and `target_length` tokens, each in the first with room.

    Makes segment_ids, decoder_segment_ids, and decoder_input_ids that begin anew with each target, after `start` (the
    config's decoder_start_token_id). window: pairs that are packed together. pad: the id at padding. Longer sides are
    cut.
    """

    length: int
    target_length: int
    start: int
    window: int = 2048
    pad: int = 0

    def stage(self, rows: Stage) -> Stage:
        """The pairs of `rows`, packed."""
        return Windowed(rows, self.window, self.arrange)

    def arrange(self, rows: list[Row], epoch: int, window: int) -> list[Row]:
        """One window of pairs, packed."""
        pairs = [self.cut(row) for row in rows]
        plan = self.plan([(len(source), len(target)) for source, target in pairs])
        return [Row(rows[some[0]].number, self.merged([pairs[i] for i in some])) for some in plan]

    def cut(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """A pair's two sides. Raises DataError for a row without them."""
        for name in ("input_ids", "labels"):
            if row.value.get(name) is None or np.ndim(row.value[name]) != 1:
                raise DataError(
                    f"row {row.number} of the data, field {name!r}: packing pairs needs a list of tokens; the row has "
                    f"{sorted(row.value)}"
                )
        value: Mapping[str, Any] = row.value
        return np.asarray(value["input_ids"])[: self.length], np.asarray(value["labels"])[: self.target_length]

    def plan(self, sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Which pairs share a row."""
        room = np.tile([self.length, self.target_length], (len(sizes), 1))
        rows: list[list[int]] = []
        for number, size in enumerate(sizes):
            row = int(np.argmax((room[: len(rows) + 1] >= size).all(axis=1)))
            if row == len(rows):
                rows.append([])
            rows[row].append(number)
            room[row] -= size
        return rows

    def merged(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Fields:
        """One row of several pairs."""
        sources, targets = zip(*pairs, strict=True)
        read = [np.concatenate([[self.start], np.where(t == IGNORED, self.pad, t)[:-1]]) for t in targets if len(t)]
        return {
            "input_ids": joined(sources, self.length, self.pad),
            "segment_ids": numbered(sources, self.length),
            "labels": joined(targets, self.target_length, IGNORED),
            "decoder_input_ids": joined(read, self.target_length, self.pad),
            "decoder_segment_ids": numbered(targets, self.target_length),
        }


def joined(parts: Sequence[np.ndarray], length: int, fill: int) -> np.ndarray:
    """The parts one after another, filled up, Int [length]."""
    rest = length - sum(map(len, parts))
    return np.concatenate([*parts, np.full(rest, fill)]).astype(np.int32)


def numbered(parts: Sequence[np.ndarray], length: int) -> np.ndarray:
    """The number of each token's part, from 1 on, 0 behind them, Int [length]."""
    sizes = [len(part) for part in parts]
    return np.repeat([*range(1, len(sizes) + 1), 0], [*sizes, length - sum(sizes)]).astype(np.int32)
