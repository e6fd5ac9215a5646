"""TrainerState: how far a run has come and what it has logged, in the fields of transformers' trainer_state.json."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from jaxformers.training.argument_checks import steps_of

TRAINER_STATE_NAME = "trainer_state.json"


@dataclass
class TrainerState:
    """Where a run is. One step is one update of the optimiser, however many batches it accumulates."""

    epoch: float = 0
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; numbers that JSON cannot hold become None."""
        return plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read a state, also one that transformers wrote; fields that it has more are left out."""
        known = {f.name for f in dataclasses.fields(cls)}
        given = {name: value for name, value in values.items() if name in known}
        given["log_history"] = list(given.get("log_history") or [])
        given["stateful_callbacks"] = dict(given.get("stateful_callbacks") or {})
        return cls(**given)

    def save_to_json(self, path: str | Path) -> None:
        """Write the state as transformers does."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load_from_json(cls, path: str | Path) -> Self:
        """Read a trainer_state.json."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def compute_steps(self, args: Any, max_steps: int) -> None:
        """Set the intervals in steps, also where an argument is a share of the run."""
        for name in ("logging_steps", "eval_steps", "save_steps"):
            if (value := getattr(args, name)) is not None:
                setattr(self, name, max(steps_of(value, max_steps), 1))


class EvalPrediction:
    """What compute_metrics reads: predictions and labels of all rows; inputs and losses where they were asked for."""

    def __init__(self, predictions: Any, label_ids: Any, inputs: Any = None, losses: Any = None) -> None:
        self.predictions, self.label_ids = predictions, label_ids
        self.inputs, self.losses = inputs, losses

    def __iter__(self):
        return iter(x for x in (self.predictions, self.label_ids, self.inputs, self.losses) if x is not None)


class PredictionOutput(NamedTuple):
    """What `predict` returns: arrays over all rows, padded with -100, and metrics."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


class EvalLoopOutput(NamedTuple):
    """What one pass over a dataset gives."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]
    num_samples: int


class TrainOutput(NamedTuple):
    """What `train` returns: steps taken, the mean loss over them, and how fast they were."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class BestRun(NamedTuple):
    """The best run of a search, or one of several that none other is better than."""

    run_id: str
    objective: float | list[float]
    hyperparameters: dict[str, Any]
    run_summary: Any = None


def plain(value: Any) -> Any:
    """Values as JSON holds them: numpy numbers become Python's, nan and infinity None."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
