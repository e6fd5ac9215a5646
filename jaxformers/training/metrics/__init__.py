"""Metrics by name, as functions of predictions and references; libraries compute them where they do it well."""

from jaxformers.training.metrics.choice import metric, metrics_for

__all__ = ["metric", "metrics_for"]
