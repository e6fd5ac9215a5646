"""Reporters: where a run's logs go, chosen by `report_to` under transformers' names, and two plain files more."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from jaxformers.core.errors import ConfigError
from jaxformers.training.callbacks.callback import TrainerCallback
from jaxformers.training.reporters.files import CSVCallback, JSONLinesCallback
from jaxformers.training.reporters.mlflow_run import MLflowCallback
from jaxformers.training.reporters.tensorboard import TensorBoardCallback
from jaxformers.training.reporters.weights_and_biases import WandbCallback

# name: (the callback, the package that it needs)
REPORTERS: dict[str, tuple[Any, str | None]] = {
    "csv": (CSVCallback, None),
    "jsonl": (JSONLinesCallback, None),
    "mlflow": (MLflowCallback, "mlflow"),
    "tensorboard": (TensorBoardCallback, "tensorboardX"),
    "wandb": (WandbCallback, "wandb"),
}

__all__ = [
    "CSVCallback",
    "JSONLinesCallback",
    "MLflowCallback",
    "TensorBoardCallback",
    "WandbCallback",
    "reporters",
]


def reporters(names: Sequence[str]) -> list[TrainerCallback]:
    """The callbacks of these names; "all" is every one whose package is installed.

    Raises ConfigError for a name that is not known, MissingExtra for a package that is not installed.
    """
    chosen = available() if list(names) == ["all"] else list(names)
    if unknown := [name for name in chosen if name not in REPORTERS]:
        raise ConfigError(
            f"report_to={unknown[0]!r} is not among the reporters; expected {', '.join(REPORTERS)}, 'all' or 'none'. "
            "Any other tracker is a TrainerCallback with on_log"
        )
    return [REPORTERS[name][0]() for name in dict.fromkeys(chosen)]


def available() -> list[str]:
    """The reporters that can be had here."""
    return [name for name, (_, package) in REPORTERS.items() if package is None or find_spec(package)]
