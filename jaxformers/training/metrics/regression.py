"""Metrics of numbers: correlations by scipy, and errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.core.extras import require
from jaxformers.training.metrics.prediction import pair, values


@dataclass(frozen=True)
class Pearson:
    """Pearson's correlation."""

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        stats = require("scipy.stats", extra="metrics", purpose="this metric")
        return {"pearson": float(stats.pearsonr(*values(*pair(predictions, references))).statistic)}


@dataclass(frozen=True)
class Spearman:
    """Spearman's correlation of ranks."""

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        stats = require("scipy.stats", extra="metrics", purpose="this metric")
        return {"spearman": float(stats.spearmanr(*values(*pair(predictions, references))).statistic)}


@dataclass(frozen=True)
class MeanSquaredError:
    """The mean of squared differences."""

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, wanted = values(*pair(predictions, references))
        return {"mse": float(np.square(given - wanted).mean())}


@dataclass(frozen=True)
class MeanAbsoluteError:
    """The mean of absolute differences."""

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, wanted = values(*pair(predictions, references))
        return {"mae": float(np.abs(given - wanted).mean())}
