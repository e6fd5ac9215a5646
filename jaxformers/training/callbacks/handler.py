"""CallbackHandler: the callbacks of a trainer in their order, called one after another."""

import logging
from typing import Any

from jaxformers.training.callbacks.callback import ExportableState, TrainerCallback, TrainerControl

log = logging.getLogger("jaxformers")

# The switches that are set back before an event, and after what they asked for was done.
RESET_BEFORE = {
    "on_train_begin": ("should_training_stop",),
    "on_epoch_begin": ("should_epoch_stop",),
    "on_step_begin": ("should_log", "should_evaluate", "should_save"),
    "on_evaluate": ("should_evaluate",),
    "on_save": ("should_save",),
    "on_log": ("should_log",),
}


class CallbackHandler:
    """A list of callbacks with what all of them are told."""

    def __init__(self, callbacks: list[TrainerCallback | type[TrainerCallback]]) -> None:
        self.callbacks: list[TrainerCallback] = []
        self.told: dict[str, Any] = {}  # model, processing_class, optimizer, lr_scheduler, dataloaders
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Append a callback, or an instance of a class; a second one of the same class is kept, and warned of."""
        made = callback() if isinstance(callback, type) else callback
        if type(made) in map(type, self.callbacks):
            log.warning("there is a callback of class %s already; both will be called", type(made).__name__)
        self.callbacks.append(made)

    def pop(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Remove and return a callback, or the first of a class; None where there is none."""
        for one in self.callbacks:
            if one is callback or (isinstance(callback, type) and isinstance(one, callback)):
                self.callbacks.remove(one)
                return one
        return None

    def call(self, event: str, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Call one event of every callback; what they return replaces the control."""
        for name in RESET_BEFORE.get(event, ()):
            setattr(control, name, False)
        for callback in self.callbacks:
            control = getattr(callback, event)(args, state, control, **self.told, **kwargs) or control
        return control

    def states(self, control: TrainerControl) -> dict[str, Any]:
        """What checkpoints keep of the callbacks, by class; several of one class as a list."""
        found: dict[str, Any] = {}
        for one in (*self.callbacks, control):
            if isinstance(one, ExportableState):
                found.setdefault(type(one).__name__, []).append(one.state())
        return {name: states[0] if len(states) == 1 else states for name, states in found.items()}

    def restore(self, states: dict[str, Any]) -> None:
        """Replace callbacks by those that `states` describes."""
        left = {name: list(value) if isinstance(value, list) else [value] for name, value in states.items()}
        for place, one in enumerate(self.callbacks):
            if isinstance(one, ExportableState) and left.get(type(one).__name__):
                self.callbacks[place] = type(one).from_state(left[type(one).__name__].pop(0))  # type: ignore[assignment]
