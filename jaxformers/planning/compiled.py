"""The train step of a recipe, compiled for devices that need not exist, and what is read from it."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxformers.adapters.lora import lora
from jaxformers.core.errors import ConfigError
from jaxformers.core.sharding import Rules
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.hub.model import Model
from jaxformers.models import task_of
from jaxformers.nn.pipeline import Plan, plan_on
from jaxformers.planning.hlo import Collective, collectives
from jaxformers.training import assembly
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.data.synthetic import Synthetic
from jaxformers.training.flops import model_flops, train_flops
from jaxformers.training.launch import config_of
from jaxformers.training.memory import out_of_memory
from jaxformers.training.recipe import Recipe
from jaxformers.training.state import TrainState
from jaxformers.training.step import TrainStep, make_train_step
from jaxformers.training.trainable import trained_share

# XLA's EFFORT_O1: less searching for the fastest code. TPU programs compile in half the time and keep their exchanges
# and, within 2 %, their memory (docs/planning.md); those of GPUs compile in seconds anyway.
QUICK = {"tpu": {"optimization_level": 19}}


@dataclass(frozen=True)
class Planned:
    """A step as shapes: what will be compiled."""

    step: TrainStep
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    rows: int  # of one step, on all devices
    tokens: int  # of one step; rows where the model reads no text
    pipeline: Plan | None = None  # how the layers lie in stages, where they do

    @property
    def platform(self) -> str:
        """Of the mesh's devices: "cpu", "tpu", "cuda"."""
        return self.state.model.mesh.devices.flat[0].platform


@dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    parameters: float
    optimizer: float  # and everything else that lives from step to step
    batch: float
    temporary: float  # activations, gathered parameters, gradients


@dataclass(frozen=True)
class Compiled:
    """What a compiled step tells. needed: bytes the compiler asked for where it did not fit, else None."""

    memory: Memory
    exchanges: list[Collective]
    kernels: int  # calls of Pallas kernels in its text
    seconds: float
    needed: str | None = None


def plan(recipe: Recipe, mesh: Mesh, rules: Rules) -> Planned:
    """The step, the state and the batch of a recipe as shapes on a mesh; nothing is loaded or made."""
    args = recipe.arguments()
    model = shapes_of(recipe, args, mesh, rules)
    parts = assembly.batch_parts(mesh, rules)
    rows = args.per_device_train_batch_size * parts * args.gradient_accumulation_steps
    first = Synthetic(model.config, model.task, length=recipe.data.get("length"), rows=1)[0]
    batch = {name: jax.ShapeDtypeStruct((rows, *np.shape(v)), v.dtype) for name, v in first.items()}
    schedule = assembly.make_schedule(args, max(args.max_steps, 1))
    step = make_train_step(
        assembly.make_loss(args, model),
        assembly.make_optimizer(args, schedule),
        accumulate=args.gradient_accumulation_steps,
        remat=args.remat,
        pipeline_microbatches=args.pipeline_microbatches,
        mesh=mesh,
        rules=rules,
        dtype=args.compute_dtype,
        max_grad_norm=args.max_grad_norm or None,
        trainable=args.trainable,
        ema=args.ema_decay,
    )
    state, batch = step.abstract(model, batch)
    words = batch.get("labels") if "input_features" in batch else batch.get("input_ids")
    tokens = rows if words is None else int(np.prod(words.shape))
    # Any number of layers that divides: those that do not are refused when the step is traced.
    flow = plan_on(mesh, rules, mesh.size, rows // args.gradient_accumulation_steps, args.pipeline_microbatches)
    return Planned(step, state, batch, rows, tokens, flow)


def shapes_of(recipe: Recipe, args: TrainingArguments, mesh: Mesh, rules: Rules) -> Model:
    """The recipe's model without values, adapters included."""
    section = recipe.model
    config = config_of(section)
    task = section.get("task") or task_of(config)
    if task is None:
        raise ConfigError("[model] does not say which task is trained, and neither does the config: say task")
    dtype = section.get("dtype") or "float32"
    model = abstract_model(config, task=task, mesh=mesh, rules=rules, dtype=dtype, scan=section.get("scan", True))
    if not recipe.lora:
        return model
    return lora(model, **recipe.lora)


def compile_step(planned: Planned) -> Compiled:
    """Compile, and read memory and exchanges. A program that does not fit is an answer, not an error."""
    begun = time.perf_counter()
    lowered = planned.step.lower(planned.state, planned.batch)
    resting = memory_of(planned)
    try:
        program = lowered.compile(compiler_options=QUICK.get(planned.platform))
    except Exception as error:
        if not out_of_memory(error):
            raise
        needed = next((line.strip() for line in str(error).splitlines() if "Used" in line or "exceed" in line), "")
        return Compiled(resting, [], 0, time.perf_counter() - begun, needed or str(error).splitlines()[0])
    text = program.as_text()
    found = program.memory_analysis()
    memory = Memory(resting.parameters, resting.optimizer, resting.batch, float(found.temp_size_in_bytes))
    kernels = text.count('custom_call_target="tpu_custom_call"') + text.count("mosaic_gpu")
    return Compiled(memory, collectives(text), kernels, time.perf_counter() - begun)


def memory_of(planned: Planned) -> Memory:
    """What lives on each device between steps, from the shapes and their shardings."""
    state = planned.state
    parameters = on_device(state.model)
    return Memory(parameters, on_device(state) - parameters, on_device(planned.batch), 0.0)


def on_device(tree: Any) -> float:
    """Bytes of a tree of shapes on one device."""

    def one(leaf: jax.ShapeDtypeStruct) -> float:
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        size = 8 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
        return float(np.prod(shape)) * size

    return sum(map(one, jax.tree.leaves(tree)), 0.0)


def step_flops(planned: Planned) -> float:
    """Model FLOPs of one step: forward, and twice that for the gradients (once, where what is trained is small)."""
    model, loss = planned.state.model, planned.step.loss
    part = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in planned.batch.items()}
    forward = model_flops(model, part, lambda model, batch: loss(model, batch, None).total)
    share = trained_share(model, planned.step.trainable)
    return float(train_flops(forward, share)) * planned.rows
