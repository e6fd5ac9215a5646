"""TrainingArguments: what a run is told, under transformers' names and with its defaults."""

import dataclasses
import os
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Self

from jaxformers.training import argument_checks, argument_names


def translated(cls: type) -> type:
    """Let the constructor take transformers' other names too: older ones, and those that only PyTorch can mean."""
    plain = cls.__init__

    @wraps(plain)
    def __init__(self: Any, *args: Any, **given: Any) -> None:
        known = {f.name for f in dataclasses.fields(cls)}
        plain(self, *args, **argument_names.translate(given, known))

    cls.__init__ = __init__  # type: ignore[method-assign]
    return cls


@translated
@dataclass
class TrainingArguments:
    """The arguments of a run; names and defaults are transformers 5's, and what is ours alone says so.

    Steps that are numbers below 1 are shares of the whole run. Raises ConfigError for what contradicts itself or has no
    meaning here.
    """

    output_dir: str = "trainer_output"

    # How long, and how much at once. A device here is one place along the mesh's batch axes.
    per_device_train_batch_size: int = 8
    num_train_epochs: float = 3.0
    max_steps: int = -1
    gradient_accumulation_steps: int = 1
    auto_find_batch_size: bool = False  # halves the rows on a device and accumulates twice as often: the same steps

    # Learning rate and optimiser.
    learning_rate: float = 5e-5
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    warmup_steps: float = 0
    optim: str = "adamw"
    optim_args: str | dict[str, Any] | None = None
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    label_smoothing_factor: float = 0.0
    neftune_noise_alpha: float | None = None
    trainable: list[str] | str | None = None  # ours: patterns of parameters' names; None trains all, or the adapters
    ema_decay: float | None = None  # ours: keep an average of the weights

    # Precision, memory and layout.
    bf16: bool = False
    fp16: bool = False
    bf16_full_eval: bool = False
    fp16_full_eval: bool = False
    tf32: bool | None = None
    gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] = field(default_factory=dict)  # {"policy": "full"}, by name
    nan_policy: str = "report"  # ours: "report", "skip" the update, or "raise"
    mesh: dict[str, int] | str | None = "auto"  # ours: axis sizes; "auto": all devices; "none": one
    rules: str = "FSDP"  # ours: a preset of core.sharding
    pipeline_microbatches: int | None = None  # ours: parts of a batch that flow through stages; None chooses

    # Logging.
    logging_strategy: str = "steps"
    logging_steps: float = 500
    logging_first_step: bool = False
    logging_nan_inf_filter: bool = True
    include_num_input_tokens_seen: str | bool = "no"
    log_level: str = "passive"
    disable_tqdm: bool | None = None  # None: a progress bar where stderr is a terminal
    report_to: list[str] | str | None = "none"
    run_name: str | None = None
    project: str = "huggingface"
    logging_dir: str | None = None  # of TensorBoard; default: runs/ in output_dir
    log_throughput: bool = True  # ours: tokens per second, MFU, goodput and memory in the logs
    run_summary: bool = True  # ours: summary.json, summary.md and plots in output_dir
    profile_steps: list[int] | None = None  # ours: [first, last], both traced

    # Evaluation.
    eval_strategy: str = "no"
    eval_steps: float | None = None
    eval_delay: float = 0
    per_device_eval_batch_size: int = 8
    prediction_loss_only: bool = False
    eval_on_start: bool = False
    eval_accumulation_steps: int | None = None
    eval_do_concat_batches: bool = True
    include_for_metrics: list[str] = field(default_factory=list)
    batch_eval_metrics: bool = False
    predict_with_generate: bool = False  # of Seq2SeqTrainingArguments, as are the next two
    generation_max_length: int | None = None
    generation_num_beams: int | None = None

    # Checkpoints, the best model, and going on.
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    save_only_model: bool = False
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    resume_from_checkpoint: str | bool | None = None
    ignore_data_skip: bool = False
    restore_callback_states_from_checkpoint: bool = False
    enable_jit_checkpoint: bool = True  # transformers: False; a run told to end (SIGTERM) saves first

    # Seeds.
    seed: int = 42
    data_seed: int | None = None
    full_determinism: bool = False

    # Data.
    dataloader_drop_last: bool = False
    dataloader_num_workers: int = 0
    dataloader_prefetch_factor: int | None = None
    remove_unused_columns: bool = True
    label_names: list[str] | None = None
    train_sampling_strategy: str = "random"
    length_column_name: str = "length"

    # The Hub.
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_strategy: str = "every_save"
    hub_token: str | None = None
    hub_private_repo: bool | None = None
    hub_always_push: bool = False
    hub_revision: str | None = None

    # Read by scripts, as in transformers, and not by the Trainer.
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False

    def __post_init__(self) -> None:
        self.output_dir = os.path.expanduser(self.output_dir)
        argument_checks.normalise(self)
        argument_checks.check(self)

    @property
    def compute_dtype(self) -> str | None:
        """The dtype of the computation; parameters stay float32."""
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else None

    @property
    def eval_dtype(self) -> str | None:
        """The dtype of evaluation: that of training, unless it says otherwise."""
        return "bfloat16" if self.bf16_full_eval else "float16" if self.fp16_full_eval else self.compute_dtype

    @property
    def remat(self) -> str | None:
        """The name of the rematerialisation policy; None keeps all activations."""
        return self.gradient_checkpointing_kwargs.get("policy", "full") if self.gradient_checkpointing else None

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Warm-up in steps, also where `warmup_steps` is a share of the run."""
        return argument_checks.steps_of(self.warmup_steps, num_training_steps)

    def to_dict(self) -> dict[str, Any]:
        """Every argument as plain JSON values, tokens hidden."""
        raw = dataclasses.asdict(self)
        return {name: "<HUB_TOKEN>" if name == "hub_token" and value else value for name, value in raw.items()}

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, checked again."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in changes}
        return type(self)(**kept, **changes)
