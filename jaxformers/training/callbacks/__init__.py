"""Callbacks: what watches a run and steers it, with transformers' events."""

from jaxformers.training.callbacks.callback import ExportableState, TrainerCallback, TrainerControl
from jaxformers.training.callbacks.early_stopping import EarlyStoppingCallback
from jaxformers.training.callbacks.flow import DefaultFlowCallback
from jaxformers.training.callbacks.profile import ProfilerCallback
from jaxformers.training.callbacks.progress import PrinterCallback, ProgressCallback

__all__ = [
    "DefaultFlowCallback",
    "EarlyStoppingCallback",
    "ExportableState",
    "PrinterCallback",
    "ProfilerCallback",
    "ProgressCallback",
    "TrainerCallback",
    "TrainerControl",
]
