"""From scores to labels: softmax, sigmoid, and the best k with their names."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxformers.processing.shares import sigmoid, softmax

FUNCTIONS = ("sigmoid", "softmax", "none")


def apply(function: str, scores: np.ndarray) -> np.ndarray:
    """Scores through a function by its name. Raises ValueError for one that is unknown."""
    name = function.lower()
    if name not in FUNCTIONS:
        raise ValueError(f"function_to_apply is {function!r}; expected one of {', '.join(FUNCTIONS)}")
    return {"sigmoid": sigmoid, "softmax": softmax, "none": lambda x: x}[name](scores)


def usual_function(config: Any) -> str:
    """What turns a classifier's logits into scores, by the config's problem type and number of labels."""
    kind, labels = config.problem_type, config.num_labels
    if kind == "regression":
        return "none"
    if kind == "multi_label_classification" or labels == 1:
        return "sigmoid"
    if kind == "single_label_classification" or labels > 1:
        return "softmax"
    return getattr(config, "function_to_apply", None) or "none"


def names(config: Any) -> dict[int, str]:
    """Label names by number."""
    return {int(k): str(v) for k, v in (config.id2label or {0: "LABEL_0", 1: "LABEL_1"}).items()}


def ranked(scores: np.ndarray, labels: Sequence[str] | dict[int, str], top_k: int | None) -> list[dict[str, Any]]:
    """The best `top_k` labels, all when it is None, best first."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [{"label": labels[i], "score": float(scores[i])} for i in order[:top_k]]
