"""TrainerCallback and TrainerControl: the events of a run, and the switches with which they steer it."""

from dataclasses import asdict, dataclass
from typing import Any, Self

# In transformers' order of definition; a trainer calls each of them by name.
EVENTS = (
    "on_init_end",
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_step_begin",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_substep_end",
    "on_step_end",
    "on_evaluate",
    "on_predict",
    "on_save",
    "on_log",
    "on_prediction_step",
    "on_push_begin",
)


class ExportableState:
    """What is written to checkpoints and restored from them."""

    def state(self) -> dict[str, Any]:
        """{"args": the constructor's, "attributes": what is set afterwards}, JSON values."""
        raise NotImplementedError(f"{type(self).__name__} must return its state as {{'args': ..., 'attributes': ...}}")

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Make the object that `state` describes."""
        made = cls(**state["args"])
        for name, value in state["attributes"].items():
            setattr(made, name, value)
        return made


@dataclass
class TrainerControl(ExportableState):
    """What callbacks may ask of the loop; it does these things at the end of a step and of an epoch."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def state(self) -> dict[str, Any]:
        return {"args": asdict(self), "attributes": {}}


class TrainerCallback:
    """Watches a run. Each event is called with args, state and control; keywords hold model, logs, metrics and others.

    An event may change `control`, and returns it then. An update is one program here, so `on_substep_end`,
    `on_pre_optimizer_step` and `on_optimizer_step` come in transformers' order once the update was sent to the devices.
    """

    def on_init_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """The trainer is made."""

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """Training begins."""

    def on_train_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """Training is over."""

    def on_epoch_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """A pass over the data begins."""

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """A pass over the data is over."""

    def on_step_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """An update begins."""

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Gradients are summed and clipped."""

    def on_optimizer_step(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """The optimiser has acted."""

    def on_substep_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """One batch of several that an update accumulates is done."""

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """An update is done."""

    def on_evaluate(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """An evaluation is done; `metrics` are its."""

    def on_predict(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """A prediction is done; `metrics` are its."""

    def on_save(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """A checkpoint was handed over for writing."""

    def on_log(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """Something was logged; `logs` may still be added to by callbacks that come early."""

    def on_prediction_step(
        self, args: Any, state: Any, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """One batch of an evaluation or prediction is done."""

    def on_push_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """The model is about to be pushed to the Hub."""
