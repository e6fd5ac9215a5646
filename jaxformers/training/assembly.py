"""What a Trainer is put together from: where it runs, its loss, optimiser and schedule, its step and its evaluation."""

import contextlib
import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from jaxformers.core.errors import ConfigError
from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import PRESETS, Rules
from jaxformers.nn.noise import with_noise
from jaxformers.training.ema import evaluation_model
from jaxformers.training.hub import check_arguments as check_hub
from jaxformers.training.losses import loss_for
from jaxformers.training.optimizer_names import UNSUPPORTED
from jaxformers.training.optimizers import optimizer, optimizer_options
from jaxformers.training.plateau import ReduceOnPlateau
from jaxformers.training.schedules import schedule
from jaxformers.training.step import TrainStep, make_train_step


def place_of(args: Any, model: Any = None) -> tuple[Mesh | None, Rules]:
    """The mesh and the rules of a run: those of the arguments, or those that the model lives on."""
    rules = args.rules
    if isinstance(rules, str):
        if rules not in PRESETS:
            raise ConfigError(
                f"rules={rules!r} is no preset; expected one of {', '.join(PRESETS)}, or a table of rules"
            )
        rules = PRESETS[rules]
    if isinstance(args.mesh, dict):
        alone = all(size == 1 for size in args.mesh.values())
        return None if alone else make_mesh(**args.mesh), rules
    if args.mesh not in ("auto", "none", None):
        raise ConfigError(
            f"mesh={args.mesh!r} is not understood; expected sizes of axes, 'auto' or 'none' (one device)"
        )
    if model is not None and model.mesh is not None:
        return model.mesh, model.rules
    return (make_mesh(fsdp=-1) if args.mesh == "auto" and jax.device_count() > 1 else None), rules


def batch_parts(mesh: Mesh | None, rules: Rules) -> int:
    """Over how many places a batch is divided: what transformers counts as devices."""
    axes = dict(rules).get("batch") or ()
    axes = (axes,) if isinstance(axes, str) else axes
    return 1 if mesh is None else math.prod(mesh.shape.get(axis, 1) for axis in axes)


# Parts


def make_loss(args: Any, model: Any) -> Callable:
    """The loss of the model's task. Raises ValueError for one without, TypeError where it cannot smooth labels."""
    smoothing = args.label_smoothing_factor
    return loss_for(model, label_smoothing=smoothing) if smoothing else loss_for(model)


def make_schedule(args: Any, steps: int) -> Any:
    """The learning rate over the run's steps."""
    warmup = args.get_warmup_steps(steps)
    return schedule(
        args.lr_scheduler_type, args.learning_rate, steps=steps, warmup_steps=warmup, **args.lr_scheduler_kwargs
    )


def make_optimizer(args: Any, rate: Any) -> Any:
    """The optimiser that the arguments name, with Adam's numbers where it takes them."""
    taken = () if args.optim in UNSUPPORTED else optimizer_options(args.optim)
    adam = {"b1": args.adam_beta1, "b2": args.adam_beta2, "eps": args.adam_epsilon}
    # Without Adam's moments, an `eps` is another thing: Adafactor has two, Adagrad a smaller one.
    options = {name: value for name, value in adam.items() if "b1" in taken and name in taken} | args.optim_args
    return optimizer(args.optim, rate, weight_decay=args.weight_decay, **options)


def make_step(trainer: Any, steps: int) -> TrainStep:
    """The train step of a run; also makes its optimiser and schedule."""
    trainer.create_optimizer_and_scheduler(steps)
    args = trainer.args
    return make_train_step(
        trainer.loss,
        trainer.optimizer,
        accumulate=trainer.accumulate,
        remat=args.remat,
        pipeline_microbatches=args.pipeline_microbatches,
        mesh=trainer.mesh,
        rules=trainer.rules,
        dtype=args.compute_dtype,
        max_grad_norm=args.max_grad_norm or None,
        nan=args.nan_policy,
        trainable=args.trainable,
        ema=args.ema_decay,
    )


def learning_rate(rate: Any, step: int) -> float:
    """The learning rate of the update after `step` others; NaN where an optimiser was given without its schedule."""
    if rate is None:
        return float("nan")
    return float(rate.rate if isinstance(rate, ReduceOnPlateau) else rate(step) if callable(rate) else rate)


def to_train(args: Any, model: Any) -> Any:
    """The model as it is trained: with noise on its embeddings, where it is asked for."""
    alpha = args.neftune_noise_alpha
    return model if alpha is None else model.replace(module=with_noise(model.module, alpha))


def shapes_of(model: Any) -> Any:
    """The model without its arrays: shapes where they were."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), model)


def after(loop: Any, before: Any) -> Any:
    """The model that a run leaves: its parameters, in the module and the dtype of the one it began with."""
    if loop.carry is None or any(leaf.is_deleted() for leaf in jax.tree.leaves(loop.carry.model)):
        return before
    model = evaluation_model(loop.carry)
    return model.replace(module=before.module, compute_dtype=before._static.compute_dtype)


def writing_options(args: Any) -> dict[str, int]:
    """How a model writes what it is judged by, where the arguments say."""
    given = {"max_length": args.generation_max_length, "num_beams": args.generation_num_beams}
    return {name: value for name, value in given.items() if value is not None}


def make_model(model_init: Callable, trial: Any) -> Any:
    """A new model; a function with an argument is given the search's trial."""
    count = len(inspect.signature(model_init).parameters)
    if count > 1:
        raise ConfigError(f"model_init has {count} parameters; expected none, or one for the trial")
    return model_init(trial) if count else model_init()


def matmul_precision(args: Any) -> Any:
    """Where float32 products are rounded to TF32 or not; without `tf32` they are as the library has them."""
    if args.tf32 is None:
        return contextlib.nullcontext()
    return jax.default_matmul_precision("tensorfloat32" if args.tf32 else "highest")


def several(dataset: Mapping[str, Any]) -> bool:
    """Whether a dict holds data sets by name, and is not one of columns of values."""
    first = next(iter(dataset.values()), None)
    rows = first if isinstance(first, (list, tuple)) else None
    return not hasattr(first, "dtype") and (rows is None or bool(rows) and isinstance(rows[0], Mapping))


def check(trainer: Any) -> None:
    """Refuse what arguments, data and functions contradict each other in. Raises ConfigError."""
    args = trainer.args
    if args.eval_strategy != "no" and trainer.eval_dataset is None:
        raise ConfigError(
            f"eval_strategy is {args.eval_strategy!r} and there is no eval_dataset: give one, or say 'no'"
        )
    if args.batch_eval_metrics and trainer.compute_metrics is not None:
        if "compute_result" not in inspect.signature(trainer.compute_metrics).parameters:
            raise ConfigError(
                "batch_eval_metrics calls compute_metrics with compute_result=True for the last batch: let it take that"
            )
    if trainer.model_init is not None and any(trainer.given_optimizers):
        raise ConfigError("model_init makes a new model for each run, which optimizers= cannot follow: use arguments")
    check_hub(args)
    if args.full_determinism:
        check_determinism()


def check_determinism() -> None:
    """On a GPU some sums run in any order unless XLA was told otherwise when it started. Raises ConfigError."""
    flag = "--xla_gpu_deterministic_ops=true"
    if jax.default_backend() == "gpu" and flag not in os.environ.get("XLA_FLAGS", ""):
        raise ConfigError(f"full_determinism on a GPU needs XLA_FLAGS={flag} before the program starts")
