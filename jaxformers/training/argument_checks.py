"""What arguments come to and what they may not be: enums as words, defaults that follow from others, contradictions."""

import json
import math
import sys
from typing import Any

from jaxformers.core.errors import ConfigError

CHOICES = {
    "logging_strategy": ("no", "steps", "epoch"),
    "eval_strategy": ("no", "steps", "epoch"),
    "save_strategy": ("no", "steps", "epoch", "best"),
    "hub_strategy": ("end", "every_save", "checkpoint", "all_checkpoints"),
    "train_sampling_strategy": ("random", "sequential", "group_by_length"),
    "nan_policy": ("report", "skip", "raise"),
    "include_num_input_tokens_seen": ("all", "non_padding", "no"),
    "log_level": ("debug", "info", "warning", "error", "critical", "passive"),
}
# torch.utils.checkpoint's own options, which mean nothing to XLA.
CHECKPOINT_OPTIONS = {"use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop"}


def normalise(args: Any) -> None:
    """Bring values to one form: words for enums, dicts for JSON text, lists for names."""
    for name in CHOICES:
        value = getattr(args, name)
        setattr(args, name, getattr(value, "value", value))  # transformers' own enums are welcome
    for name in ("lr_scheduler_type", "optim"):
        setattr(args, name, str(getattr(getattr(args, name), "value", getattr(args, name))))
    if isinstance(args.include_num_input_tokens_seen, bool):
        args.include_num_input_tokens_seen = "all" if args.include_num_input_tokens_seen else "no"
    for name in ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs"):
        setattr(args, name, options(getattr(args, name)))
    args.gradient_checkpointing = bool(args.gradient_checkpointing)
    args.optim_args = options(args.optim_args)
    args.report_to = [] if args.report_to in (None, "none", ["none"]) else listed(args.report_to)
    if args.disable_tqdm is None:
        args.disable_tqdm = not sys.stderr.isatty()
    follow(args)


def follow(args: Any) -> None:
    """Defaults that follow from other arguments."""
    if args.eval_strategy != "no":
        args.do_eval = True
    if args.eval_strategy == "steps" and not args.eval_steps:
        args.eval_steps = args.logging_steps
    watches = args.load_best_model_at_end or args.save_strategy == "best"
    if args.metric_for_best_model is None and (watches or args.lr_scheduler_type == "reduce_lr_on_plateau"):
        args.metric_for_best_model = "loss"
    if args.greater_is_better is None and args.metric_for_best_model is not None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")
    for name in ("logging_steps", "eval_steps", "save_steps"):
        value = getattr(args, name)
        if value is not None and value > 1:
            if value != int(value):
                raise ConfigError(f"{name} is {value}: beyond 1 it counts steps and must be whole")
            setattr(args, name, int(value))


def check(args: Any) -> None:
    """Refuse what contradicts itself."""
    for name, allowed in CHOICES.items():
        if getattr(args, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(args, name)!r}; expected one of {', '.join(allowed)}")
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise ConfigError(f"{name} is {getattr(args, name)}; expected 1 or more")
    if args.pipeline_microbatches is not None and args.pipeline_microbatches < 1:
        raise ConfigError(f"pipeline_microbatches is {args.pipeline_microbatches}; expected 1 or more, or none")
    for first, second in (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval")):
        if getattr(args, first) and getattr(args, second):
            raise ConfigError(f"{first} and {second} are both set; at most one can be")
    if args.warmup_steps < 0:
        raise ConfigError(f"warmup_steps is {args.warmup_steps}; expected 0 or more")
    if args.logging_strategy == "steps" and args.logging_steps <= 0:
        raise ConfigError("logging_strategy='steps' needs logging_steps above 0")
    if args.lr_scheduler_type == "reduce_lr_on_plateau" and args.eval_strategy == "no":
        raise ConfigError("lr_scheduler_type='reduce_lr_on_plateau' needs an eval_strategy: it watches evaluations")
    if unknown := args.gradient_checkpointing_kwargs.keys() - CHECKPOINT_OPTIONS - {"policy"}:
        raise ConfigError(
            f"gradient_checkpointing_kwargs has {sorted(unknown)}; expected 'policy', such as 'full' or 'dots_saveable'"
        )
    if (steps := args.profile_steps) is not None and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        raise ConfigError(f"profile_steps is {steps}; expected [first, last], steps counted from 1")
    check_best(args)


def check_best(args: Any) -> None:
    """A best model can be loaded only when each evaluation that may be the best is saved."""
    if not args.load_best_model_at_end or args.save_strategy == "best":
        return
    if args.eval_strategy != args.save_strategy or args.eval_strategy == "no":
        raise ConfigError(
            f"load_best_model_at_end needs eval_strategy and save_strategy to be equal (or save_strategy='best'); "
            f"they are {args.eval_strategy!r} and {args.save_strategy!r}"
        )
    if args.eval_strategy != "steps":
        return
    if (args.eval_steps < 1) != (args.save_steps < 1):
        raise ConfigError(
            f"load_best_model_at_end needs save_steps to be a multiple of eval_steps, which a share and a number of "
            f"steps cannot promise: save_steps is {args.save_steps}, eval_steps is {args.eval_steps}"
        )
    ratio = args.save_steps / args.eval_steps
    if not math.isclose(ratio, round(ratio)):
        raise ConfigError(
            f"load_best_model_at_end needs save_steps to be a multiple of eval_steps; "
            f"they are {args.save_steps} and {args.eval_steps}"
        )


def steps_of(value: float, whole: int) -> int:
    """A number of steps, or a share below 1 of the whole, rounded up."""
    return math.ceil(whole * value) if value < 1 else int(value)


def options(value: Any) -> dict[str, Any]:
    """A dict from a dict, JSON text, or transformers' "name=value,name=value"."""
    if value is None or isinstance(value, dict):
        return dict(value or {})
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = (part.partition("=") for part in value.replace(" ", "").split(",") if part)
    return {name: number(text) for name, _, text in pairs}


def number(text: str) -> Any:
    """A JSON value where the text is one, else the text."""
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except json.JSONDecodeError:
        return text


def listed(value: Any) -> list[str]:
    """A list of names from one name, several parted by commas, or a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
