"""Entities in labelled words: precision, recall and F1 of whole entities, as seqeval counts them (CoNLL)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.training.metrics.prediction import IGNORED, pair, scores

Entity = tuple[str, int, int]


@dataclass(frozen=True)
class Entities:
    """Scores of entities that agree in kind, beginning and end, and the accuracy of single labels.

    Predictions: scores [rows,T,C], ids [rows,T], or lists of labels such as "B-PER"; references likewise, -100 where a
    token does not count. id2label: the names of ids, a model config's.
    """

    id2label: Mapping[int, str] | None = None

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, wanted = self.named(*pair(predictions, references))
        found, there = ({(i, *e) for i, row in enumerate(rows) for e in entities(row)} for rows in (given, wanted))
        right = len(found & there)
        precision, recall = right / max(len(found), 1), right / max(len(there), 1)
        same = [a == b for x, y in zip(given, wanted, strict=True) for a, b in zip(x, y, strict=True)]
        return {
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall) if right else 0.0,
            "accuracy": float(np.mean(same)) if same else float("nan"),
        }

    def named(self, predictions: Any, references: Any) -> tuple[list[list[str]], list[list[str]]]:
        """Labels by name, row by row, without those that do not count. Raises ValueError for ids without names."""
        if len(references) and isinstance(references[0], (list, tuple)) and isinstance((references[0] or [""])[0], str):
            return [list(row) for row in predictions], [list(row) for row in references]
        if self.id2label is None:
            raise ValueError("labels are ids: make the metric with id2label=model.config.id2label")
        names = {int(number): name for number, name in self.id2label.items()}
        given, labels = scores(predictions), scores(references)
        given = given.argmax(axis=-1) if given.ndim == labels.ndim + 1 else given
        pairs = [
            [(names[int(a)], names[int(b)]) for a, b in zip(*row, strict=True) if b != IGNORED]
            for row in zip(given, labels, strict=True)
        ]
        return [[a for a, _ in row] for row in pairs], [[b for _, b in row] for row in pairs]


def entities(labels: Sequence[str]) -> list[Entity]:
    """The entities of a row: kind, first and last place. Reads IOB1, IOB2, IOE and IOBES as CoNLL's script does."""
    out: list[Entity] = []
    before, kind_before, begin = "O", "", 0
    for place, label in enumerate([*labels, "O"]):
        mark, _, kind = label.partition("-")
        if label not in ("O", "B", "I", "E", "S") and not kind:
            mark, kind = "I", label  # labels without marks: neighbours of a kind are one entity
        kind = kind or "_"
        if kind_before and before != "O" and ends(before, mark, kind_before, kind):
            out.append((kind_before, begin, place - 1))
        if mark != "O" and starts(before, mark, kind_before, kind):
            begin = place
        before, kind_before = mark, kind if mark != "O" else ""
    return out


def ends(before: str, mark: str, kind_before: str, kind: str) -> bool:
    """Whether an entity ended with the label before."""
    return before in "ES" or mark in "OBS" or kind_before != kind


def starts(before: str, mark: str, kind_before: str, kind: str) -> bool:
    """Whether an entity starts with this label."""
    return mark in "BS" or before in "OES" or kind_before != kind
