"""Metrics of language models and answers: perplexity, exact match, SQuAD's scores, and spans by their ends."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.training.metrics.prediction import IGNORED, chunks, pair, scores, texts

ROWS_AT_ONCE = 16  # of scores [rows,T,V] in float64


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean cross-entropy of scores [rows,T,V]. shift: how far labels lie ahead, 0 for masked models."""

    shift: int = 1

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        predictions, references = pair(predictions, references)
        logits, labels = scores(predictions), scores(references)
        if logits.ndim != 3 or logits.shape[:2] != labels.shape:
            raise ValueError(
                f"perplexity needs scores [rows,T,V] of labels [rows,T]; found {logits.shape}, {labels.shape}"
            )
        total = count = 0.0
        for rows in chunks(len(labels), ROWS_AT_ONCE):
            loss, real = cross_entropy(logits[rows], labels[rows], self.shift)
            total, count = total + loss, count + real
        return {"perplexity": float(np.exp(total / count)) if count else float("nan")}


def cross_entropy(logits: np.ndarray, labels: np.ndarray, shift: int) -> tuple[float, int]:
    """The sum of cross-entropies, and how many tokens count."""
    if shift:
        logits, labels = logits[:, :-shift], labels[:, shift:]
    real = labels != IGNORED
    x = logits[real].astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    own = np.take_along_axis(x, labels[real][:, None], axis=-1)[:, 0]
    return float((np.log(np.exp(x).sum(axis=-1)) - own).sum()), int(real.sum())


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces, as SQuAD's own evaluation."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def overlap(given: str, wanted: str) -> float:
    """F1 of the words of two texts, 1 when both are empty."""
    ours, theirs = normalized(given).split(), normalized(wanted).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


@dataclass(frozen=True)
class ExactMatch:
    """The share of texts that are equal to a reference. normalize: compare them as SQuAD does."""

    normalize: bool = False
    tokenizer: Any = None

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, wanted = texts(*pair(predictions, references), self.tokenizer)
        form = normalized if self.normalize else str
        same = [
            any(form(text) == form(one) for one in several(answers))
            for text, answers in zip(given, wanted, strict=True)
        ]
        return {"exact_match": float(np.mean(same)) if same else float("nan")}


@dataclass(frozen=True)
class Squad:
    """Exact match and F1 of answers in percent, the best over each question's references.

    Predictions are texts, or SQuAD's `{"id", "prediction_text"}`; references texts, lists of them, or `{"id",
    "answers": {"text": [...]}}`, paired by id. A question without answers wants an empty text.
    """

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        predictions, references = pair(predictions, references)
        if len(predictions) and isinstance(predictions[0], Mapping):
            predictions, references = by_id(predictions, references)
        pairs = [(text, several(answers) or [""]) for text, answers in zip(predictions, references, strict=True)]
        exact = [max(normalized(text) == normalized(one) for one in answers) for text, answers in pairs]
        shared = [max(overlap(text, one) for one in answers) for text, answers in pairs]
        return {"exact_match": 100 * float(np.mean(exact)), "f1": 100 * float(np.mean(shared))}


def by_id(predictions: Sequence[Mapping], references: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """SQuAD's records as texts. Raises ValueError for a question without a prediction."""
    answers = {one["id"]: one["prediction_text"] for one in predictions}
    missing = [one["id"] for one in references if one["id"] not in answers]
    if missing:
        raise ValueError(f"{len(missing)} questions have no prediction, the first is {missing[0]!r}")
    return [answers[one["id"]] for one in references], [list(one["answers"]["text"]) for one in references]


def several(answers: Any) -> list[str]:
    """The references of one text."""
    return [answers] if isinstance(answers, str) else list(answers)


@dataclass(frozen=True)
class Spans:
    """Answers by the places of their ends: the share that is exact, and the F1 of the tokens they cover.

    Predictions: scores of starts and ends, each [rows,T]; references: start and end positions, each [rows]. The best
    end is sought from the start on. Rows whose start is negative do not count.
    """

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        (starts, ends, *_), (first, last, *_) = pair(predictions, references)
        starts, ends = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
        begin = starts.argmax(axis=1)
        end = np.where(np.arange(ends.shape[1]) < begin[:, None], -np.inf, ends).argmax(axis=1)
        first, last = np.asarray(first).reshape(-1), np.asarray(last).reshape(-1)
        real = first >= 0
        common = np.maximum(np.minimum(end, last) - np.maximum(begin, first) + 1, 0)
        f1 = 2 * common / ((end - begin + 1) + (last - first + 1))
        exact = (begin == first) & (end == last)
        return {"exact_match": float(exact[real].mean()), "f1": float(f1[real].mean())}
