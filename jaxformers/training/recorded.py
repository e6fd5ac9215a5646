"""What a Trainer tells its callbacks and writes to its folder, apart from how it trains."""

from pathlib import Path
from typing import Any

from jaxformers.training import saving
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.callbacks import TrainerCallback, TrainerControl
from jaxformers.training.callbacks.handler import CallbackHandler
from jaxformers.training.card import write_card
from jaxformers.training.distributed import is_first
from jaxformers.training.hub import Hub
from jaxformers.training.trainer_state import TrainerState


class Recorded:
    """The part of a Trainer that reports: callbacks, logs, metrics, the model's files and the Hub."""

    args: TrainingArguments
    model: Any
    training_model: Any
    run_folder: Path
    callbacks: CallbackHandler
    control: TrainerControl
    state: TrainerState
    hub: Hub

    def call(self, event: str, **told: Any) -> None:
        """Call an event of all callbacks."""
        self.callbacks.told["model"] = self.training_model
        self.control = self.callbacks.call(event, self.args, self.state, self.control, **told)

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add the epoch, note the logs in `state.log_history`, and tell the callbacks."""
        logs["epoch"] = self.state.epoch
        if self.args.include_num_input_tokens_seen != "no":
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.call("on_log", logs=logs)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Append a callback, or an instance of a class."""
        self.callbacks.add(callback)

    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Remove a callback, or the first of a class, and return it."""
        return self.callbacks.pop(callback)

    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Remove a callback, or the first of a class."""
        self.callbacks.pop(callback)

    def is_world_process_zero(self) -> bool:
        """Whether this process writes files and reports; the only one on a laptop."""
        return is_first()

    is_local_process_zero = is_world_process_zero

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Write the model (or its adapters), the processor and the arguments as transformers reads them."""
        saving.save_model(self, Path(output_dir or self.args.output_dir))

    def save_state(self) -> None:
        """Write trainer_state.json into the output folder."""
        saving.save_state(self)

    def save_metrics(self, split: str, metrics: dict[str, Any], combined: bool = True) -> None:
        """Write `{split}_results.json`, and add the metrics to all_results.json."""
        saving.save_metrics(self, split, metrics, combined)

    def log_metrics(self, split: str, metrics: dict[str, Any]) -> None:
        """Print metrics as a table."""
        saving.print_metrics(self, split, metrics)

    def push_to_hub(self, commit_message: str = "End of training", blocking: bool = True, **options: Any) -> Any:
        """Save the model with a card and upload it; options are `token`, `revision` and the card's fields."""
        return self.hub.push(self, commit_message, blocking, **options)

    def create_model_card(self, model_name: str | None = None, **fields: Any) -> Path:
        """Write README.md into the output folder."""
        return write_card(self, model_name or self.run_folder.absolute().name, **fields)
