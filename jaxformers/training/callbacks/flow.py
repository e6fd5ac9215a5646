"""The usual course of a run: when to log, to evaluate, to save and to end."""

from typing import Any

from jaxformers.training.callbacks.callback import TrainerCallback, TrainerControl


class DefaultFlowCallback(TrainerCallback):
    """Sets the switches by the strategies and intervals of the arguments."""

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        step, last = state.global_step, state.global_step >= state.max_steps
        if args.logging_strategy == "steps":
            control.should_log |= step % state.logging_steps == 0
        control.should_log |= step == 1 and args.logging_first_step
        if args.eval_strategy == "steps" and args.eval_delay <= step:
            control.should_evaluate |= last or step % state.eval_steps == 0
        if args.save_strategy == "steps":
            control.should_save |= last or step % state.save_steps == 0
        control.should_training_stop |= last
        return control

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        control.should_log |= args.logging_strategy == "epoch"
        control.should_evaluate |= args.eval_strategy == "epoch" and args.eval_delay <= state.epoch
        control.should_save |= args.save_strategy == "epoch"
        return control
