"""What a metric compares: predictions and references, from arrays or from a Trainer's EvalPrediction."""

from collections.abc import Iterator
from typing import Any

import numpy as np

IGNORED = -100


def pair(predictions: Any, references: Any) -> tuple[Any, Any]:
    """Predictions and references, or those of an EvalPrediction (`predictions`, `label_ids`) given alone."""
    if references is not None:
        return predictions, references
    if hasattr(predictions, "predictions") and hasattr(predictions, "label_ids"):
        return predictions.predictions, predictions.label_ids
    if isinstance(predictions, tuple) and len(predictions) == 2:
        return predictions
    raise TypeError("a metric takes predictions and references, or one object with predictions and label_ids")


def scores(value: Any) -> np.ndarray:
    """An array; of several outputs, which come as a tuple, the first, since scores come before anything else."""
    return np.asarray(value[0] if isinstance(value, tuple) else value)


def classes(
    predictions: Any, references: Any, *, shift: int = 0, threshold: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true classes, flat, without those labelled -100.

    Scores [...,C] of labels [...] become the highest one's class. Scores of labels of the same shape, several for each
    row, are compared with `threshold`, and stay [rows,C]. shift: how far labels lie ahead (1 for causal models).
    """
    given, labels = scores(predictions), scores(references)
    several = given.shape == labels.shape and given.ndim == 2 and given.dtype.kind == "f"
    if several:
        real = (labels != IGNORED).all(axis=1) & ~np.isnan(labels.astype(np.float64)).any(axis=1)
        return (given[real] > threshold).astype(np.int64), labels[real].astype(np.int64)
    if given.ndim == labels.ndim + 1:
        given = given.argmax(axis=-1)
    if given.shape != labels.shape:
        raise ValueError(f"predictions have shape {given.shape}, references {labels.shape}: they must match")
    if shift:
        given, labels = given[:, :-shift], labels[:, shift:]
    given, labels = given.reshape(-1), labels.reshape(-1)
    if labels.dtype.kind not in "iuf":
        return given, labels
    real = labels != IGNORED
    return given[real], labels[real]


def values(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true numbers, flat, without those whose true one is NaN."""
    given, wanted = scores(predictions).astype(np.float64), scores(references).astype(np.float64)
    if given.size != wanted.size:
        raise ValueError(f"predictions have shape {given.shape}, references {wanted.shape}: they must match")
    given, wanted = given.reshape(-1), wanted.reshape(-1)
    real = ~np.isnan(wanted)
    return given[real], wanted[real]


def probabilities(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def texts(predictions: Any, references: Any, tokenizer: Any) -> tuple[list[str], list[Any]]:
    """Predicted and true texts: as they are given, or decoded from ids or scores [rows,T(,V)] with the tokenizer."""
    return decoded(predictions, tokenizer, {}), decoded(references, tokenizer, ungrouped(tokenizer))


def ungrouped(tokenizer: Any) -> dict[str, Any]:
    """How labels are decoded: a CTC tokenizer would read doubled letters as one."""
    return {"group_tokens": False} if "CTC" in type(tokenizer).__name__ else {}


def decoded(given: Any, tokenizer: Any, options: dict[str, Any]) -> list[Any]:
    """Texts of one side."""
    if isinstance(given, (list, tuple)) and (not given or isinstance(given[0], str) or is_texts(given[0])):
        return list(given)
    ids = scores(given)
    if ids.dtype.kind in "US":
        return ids.tolist()
    if tokenizer is None:
        raise ValueError("these are ids, and the metric compares texts: make it with tokenizer=")
    ids = ids.argmax(axis=-1) if ids.ndim == 3 else ids
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = np.where(ids < 0, padding, ids)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True, **options)]


def is_texts(value: Any) -> bool:
    """Whether these are several texts, as references may be."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], str)


def chunks(rows: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows."""
    for start in range(0, rows, size):
        yield slice(start, start + size)
