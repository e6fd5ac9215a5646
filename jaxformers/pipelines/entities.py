"""Entities: what tokens with labels say together. Labels may begin with B- and I- (begin, inside)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclass(frozen=True)
class Token:
    """One token with its probabilities, its characters in the text, and whether it continues a word."""

    word: str
    scores: np.ndarray
    place: tuple[int, int] | None
    index: int
    continues: bool


def joined(tokens: Sequence[Token], strategy: str, labels: Mapping[int, str], tokenizer: Any) -> list[dict[str, Any]]:
    """An entity for each token, or, for the strategies that know words, for each word."""
    if strategy in ("none", "simple"):
        return [entity(t.scores, labels, {"index": t.index, "word": t.word}, t.place, t.place) for t in tokens]
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.continues:
            words[-1].append(token)
        else:
            words.append([token])
    out = []
    for word in words:
        text = tokenizer.convert_tokens_to_string([t.word for t in word])
        out.append(entity(word_scores(word, strategy), labels, {"word": text}, word[0].place, word[-1].place))
    return out


def word_scores(word: Sequence[Token], strategy: str) -> np.ndarray:
    """One set of probabilities for a word of several tokens."""
    if strategy == "first":
        return word[0].scores
    if strategy == "max":
        return max(word, key=lambda t: t.scores.max()).scores
    return np.mean([t.scores for t in word], axis=0)


def entity(
    scores: np.ndarray, labels: Mapping[int, str], extra: Mapping[str, Any], first: Any, last: Any
) -> dict[str, Any]:
    """The likeliest label, with where it stands."""
    best = int(scores.argmax())
    place = {"start": None if first is None else first[0], "end": None if last is None else last[1]}
    return {"entity": labels[best], "score": float(scores[best]), **extra, **place}


def parts(label: str) -> tuple[str, str]:
    """B or I, and the name without it; a label without either counts as inside."""
    return (label[0], label[2:]) if label.startswith(("B-", "I-")) else ("I", label)


def group(entities: Sequence[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """Neighbours of one name become one entity; B- always begins a new one."""
    runs: list[list[dict[str, Any]]] = []
    for one in entities:
        begins, name = parts(one["entity"])
        if runs and name == parts(runs[-1][-1]["entity"])[1] and begins != "B":
            runs[-1].append(one)
        else:
            runs.append([one])
    return [
        {
            "entity_group": run[0]["entity"].split("-", 1)[-1],
            "score": float(np.mean([one["score"] for one in run])),
            "word": tokenizer.convert_tokens_to_string([one["word"] for one in run]),
            "start": run[0]["start"],
            "end": run[-1]["end"],
        }
        for run in runs
    ]


def without_overlaps(entities: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that overlap, found in two windows of a text, keep the longer, or the likelier of equals."""
    kept: list[dict[str, Any]] = []
    for one in sorted(entities, key=lambda e: e["start"]):
        if not kept or one["start"] >= kept[-1]["end"]:
            kept.append(one)
            continue
        length, other = one["end"] - one["start"], kept[-1]["end"] - kept[-1]["start"]
        if length > other or (length == other and one["score"] > kept[-1]["score"]):
            kept[-1] = one
    return kept
