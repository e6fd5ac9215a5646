"""Metrics of classes, by scikit-learn: accuracy, precision, recall, F1, area under the curve, Matthews' correlation."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxformers.core.extras import require
from jaxformers.training.metrics.prediction import IGNORED, classes, pair, probabilities, scores


def sklearn() -> Any:
    """scikit-learn's metrics. Raises MissingExtra without the extra `metrics`."""
    return require("sklearn.metrics", extra="metrics", purpose="this metric")


@dataclass(frozen=True)
class Accuracy:
    """The share of predicted classes that are right. shift: 1 for causal models, whose labels lie one token ahead."""

    shift: int = 0
    threshold: float = 0.0

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, labels = classes(*pair(predictions, references), shift=self.shift, threshold=self.threshold)
        right = given == labels
        right = right.all(axis=1) if right.ndim == 2 else right
        return {"accuracy": float(right.mean()) if right.size else float("nan")}


@dataclass(frozen=True)
class Averaged:
    """A metric of each class, averaged: "binary" (of `positive`), "micro", "macro", "weighted", or None for all.

    By default "binary" where no class but 0 and 1 is seen, else "macro".
    """

    name: ClassVar[str]
    average: str | None = "auto"
    positive: int = 1
    shift: int = 0
    threshold: float = 0.0

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, Any]:
        given, labels = classes(*pair(predictions, references), shift=self.shift, threshold=self.threshold)
        average = self.average
        if average == "auto":
            two = given.ndim == 1 and set(np.unique(labels)) | set(np.unique(given)) <= {0, 1}
            average = "binary" if two else "macro"
        function = getattr(sklearn(), f"{self.name}_score")
        out = function(labels, given, average=average, pos_label=self.positive, zero_division=0)
        return {self.name: out.tolist() if average is None else float(out)}


@dataclass(frozen=True)
class Precision(Averaged):
    """How many of those predicted are right."""

    name: ClassVar[str] = "precision"


@dataclass(frozen=True)
class Recall(Averaged):
    """How many of those there are were found."""

    name: ClassVar[str] = "recall"


@dataclass(frozen=True)
class F1(Averaged):
    """The harmonic mean of precision and recall."""

    name: ClassVar[str] = "f1"


@dataclass(frozen=True)
class Matthews:
    """Matthews' correlation coefficient."""

    shift: int = 0

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, labels = classes(*pair(predictions, references), shift=self.shift)
        return {"matthews_correlation": float(sklearn().matthews_corrcoef(labels, given))}


@dataclass(frozen=True)
class Auc:
    """The area under the ROC curve of scores [N], [N,2] or [N,C]; with more than two classes each against the rest.

    average, multi_class: as scikit-learn's roc_auc_score.
    """

    average: str = "macro"
    multi_class: str = "ovr"

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        predictions, references = pair(predictions, references)
        given, labels = scores(predictions).astype(np.float64), scores(references)
        real = labels != IGNORED if labels.ndim == 1 else np.ones(len(labels), bool)
        given, labels = given[real], labels[real]
        if given.ndim == 2 and labels.ndim == 1:
            given = probabilities(given) if not is_distribution(given) else given
            given = given[:, 1] if given.shape[1] == 2 else given
        several = given.ndim == 2 and labels.ndim == 1
        options = {"multi_class": self.multi_class, "labels": np.arange(given.shape[1])} if several else {}
        return {"roc_auc": float(sklearn().roc_auc_score(labels, given, average=self.average, **options))}


def is_distribution(x: np.ndarray) -> bool:
    """Whether rows are probabilities."""
    return bool((x >= 0).all() and np.allclose(x.sum(axis=-1), 1, atol=1e-4))
