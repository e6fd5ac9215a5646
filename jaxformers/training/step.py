"""The train step: a pure, jitted, donated function (state, batch) -> (state, metrics), and how its state begins."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxformers.core.sharding import Rules, use_mesh
from jaxformers.hub.model import Model
from jaxformers.nn.remat import remat_policy
from jaxformers.training import ema as averages
from jaxformers.training import placement, planning
from jaxformers.training.gradients import accumulated, global_norm, of_sum, whole, zeros_like
from jaxformers.training.losses.output import Batch, Loss, LossOutput
from jaxformers.training.optimizers import learning_rate_of
from jaxformers.training.scaling import SMALLEST, LossScale
from jaxformers.training.state import TrainState
from jaxformers.training.trainable import Trainable, choose, pick, put

Metrics = dict[str, jax.Array]
NanPolicy = Literal["report", "skip", "raise"]


class NonFinite(FloatingPointError):
    """A step met NaN or infinity; `state` is as before it but for the step count, `metrics` are the step's."""

    def __init__(self, state: TrainState, metrics: Metrics) -> None:
        super().__init__(
            f"step {int(state.step)} met a value that is not finite: loss {float(metrics['loss'])}, gradient norm "
            f"{float(metrics['grad_norm'])}. The parameters are as before it: go on from this error's `state`"
        )
        self.state, self.metrics = state, metrics


@dataclass(frozen=True, eq=False)
class TrainStep:
    """`state, metrics = step(state, batch)`; `make_train_step` says what the fields mean."""

    loss: Loss
    optimizer: optax.GradientTransformation
    accumulate: int
    remat: str | None
    pipeline_microbatches: int | None
    mesh: Mesh | None
    rules: Rules | None
    dtype: Any
    param_dtype: Any
    max_grad_norm: float | None
    nan: NanPolicy
    trainable: Trainable
    ema: averages.Decay | None
    scale: LossScale | None
    programs: dict[Any, Any] = field(default_factory=dict, repr=False)

    def init(self, model: Model, key: jax.Array) -> TrainState:
        """The state at step 0, in arrays of its own: the step donates them, and the model given stays usable."""
        model = self.prepared(model)
        chosen, begin = choose(model, self.trainable), self.beginning(model)
        plan = planning.planned(model, chosen, self.param_dtype, begin)
        return planning.filled(plan, model, key, chosen, begin)

    def abstract(self, model: Model, batch: Any) -> tuple[TrainState, Any]:
        """State and batch as shapes with shardings, from a model and a batch of shapes or arrays; nothing is made."""
        model = self.prepared(model)
        chosen = choose(model, self.trainable)
        state = planning.planned(model, chosen, self.param_dtype, self.beginning(model))
        return state, planning.abstract_batch(batch, model)

    def prepared(self, model: Model) -> Model:
        """The model with this step's mesh, rules, dtype, remat policy and microbatches."""
        layout = {"remat": self.remat, "microbatches": self.pipeline_microbatches}
        return planning.stacked(planning.prepared(model, self.mesh, self.rules, self.dtype, **layout))

    def beginning(self, model: Model) -> planning.Begin:
        """The function that makes all of a state but its model."""
        kind = model._static.compute_dtype
        scale = (self.scale or LossScale.start()) if kind is not None and kind == jnp.float16 else None

        def begin(tree: Any, key: jax.Array) -> TrainState:
            # Values are copied, since a buffer that stands twice cannot be donated.
            opt_state = jax.tree.map(jnp.copy, self.optimizer.init(tree))
            ema = None if self.ema is None else jax.tree.map(jnp.copy, tree)
            return TrainState(jnp.int32(0), None, opt_state, jax.random.clone(key), scale, ema)  # type: ignore[arg-type]

        return begin

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One optimiser step. The state given is donated: its arrays are gone, go on with the one returned."""
        model = state.model
        if model.mesh is not None:
            batch = placement.place_batch(batch, model.mesh, model.rules)
        state, metrics = self.program(state)(state, batch)
        if self.nan == "raise" and bool(metrics.pop("failed")):
            raise NonFinite(state, metrics)
        return state, metrics

    def lower(self, state: TrainState, batch: Batch) -> Any:
        """The step lowered for these arrays or shapes: `.compile()` tells its memory without running it."""
        return self.program(state).lower(state, batch)

    def program(self, state: TrainState) -> Any:
        """The jitted step for states of this structure, whose results stay where the arguments were."""
        structure = jax.tree.structure(state)
        if structure not in self.programs:
            places, mesh = planning.shardings(state), state.model.mesh
            out = {} if places is None else {"out_shardings": (places, NamedSharding(mesh, PartitionSpec()))}
            update = partial(self.update, places=None if places is None else places.model)
            self.programs[structure] = jax.jit(update, donate_argnums=0, **out)
        return self.programs[structure]

    def update(self, state: TrainState, batch: Batch, places: Model | None = None) -> tuple[TrainState, Metrics]:
        """The pure function behind the step. places: the sharding of each of the model's leaves, on a mesh."""
        model = state.model
        chosen = choose(model, self.trainable)
        tree = pick(model, chosen)
        with use_mesh(model.mesh, model.rules):
            grads, sums = self.gradients(state, tree, batch, None if places is None else pick(places, chosen))
            weight = whole(sums.weight)
            norm, loss = global_norm(grads) / weight, sums.total / weight
            clip = 1.0 if self.max_grad_norm is None else jnp.minimum(1.0, self.max_grad_norm / (norm + 1e-6))
            grads = jax.tree.map(lambda g: g * (clip / weight).astype(g.dtype), grads)
            new = self.moved(state, tree, grads, loss, self.objective(state, batch))
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        if self.nan != "report" or state.scale is not None:
            new = jax.tree.map(lambda a, b: a if a is b else jnp.where(finite, a, b), new, state)
        metrics = {name: value / weight for name, value in sums.metrics.items()}
        metrics |= {"loss": loss, "grad_norm": norm, "weight": sums.weight, "finite": finite}
        if (rate := learning_rate_of(new.opt_state)) is not None:
            metrics["learning_rate"] = rate
        failed = ~finite
        if state.scale is not None:
            # An overflow is float16's ordinary course as long as the scale can fall.
            failed &= ~jnp.isfinite(loss) | (state.scale.value <= SMALLEST)
            metrics["loss_scale"] = state.scale.value
            new = new.replace(scale=state.scale.adjust(finite))
        if self.nan == "raise":
            metrics["failed"] = failed
        return new.replace(step=state.step + 1), metrics

    def moved(self, state: TrainState, tree: Any, grads: Any, loss: jax.Array, objective: Callable) -> TrainState:
        """The state after the optimiser's update, with further arguments for optimisers that look at the loss."""
        update = optax.with_extra_args_support(self.optimizer).update
        extra = {"value": loss, "grad": grads, "value_fn": objective, "obj_fn": objective}
        updates, opt_state = update(grads, state.opt_state, tree, **extra)
        tree = optax.apply_updates(tree, updates)
        ema = None if self.ema is None else averages.updated(state.ema, tree, self.ema, state.step)
        return state.replace(model=put(state.model, tree), opt_state=opt_state, ema=ema)

    def gradients(self, state: TrainState, tree: Any, batch: Batch, places: Any) -> tuple[Any, LossOutput]:
        """Gradients of the summed loss by the trainable leaves, and the sums."""
        model = state.model

        def spread(parts: Any) -> Any:
            if model.mesh is None:
                return parts
            spot = partial(placement.batch_sharding, mesh=model.mesh, rules=model.rules, axis=1)
            return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spot(x.shape)), parts)

        def beside(grads: Any) -> Any:
            # Where its parameter is: devices then add up their own part only, and never hold a whole gradient.
            return grads if places is None else jax.lax.with_sharding_constraint(grads, places)

        loss = self.with_tree(model)
        find = of_sum(loss, tree, None if state.scale is None else state.scale.value)

        def gradients(batch: Batch, key: jax.Array) -> tuple[Any, LossOutput]:
            grads, sums = find(batch, key)
            return beside(grads), sums

        def start(batch: Batch, key: jax.Array) -> tuple[Any, LossOutput]:
            return beside(zeros_like(tree)), zeros_like(jax.eval_shape(loss, tree, batch, key))

        key = jax.random.fold_in(state.key, state.step)
        return accumulated(gradients, batch, key, self.accumulate, start, spread)

    def with_tree(self, model: Model) -> Callable[[Any, Batch, jax.Array], LossOutput]:
        """The loss as a function of the trainable leaves."""
        return lambda tree, batch, key: self.loss(put(model, tree), batch, key)

    def objective(self, state: TrainState, batch: Batch) -> Callable[[Any], jax.Array]:
        """The mean loss of the batch, for optimisers that evaluate it themselves (Sophia); not traced by others."""
        key = jax.random.fold_in(state.key, state.step)

        def value(tree: Any) -> jax.Array:
            out = self.with_tree(state.model)(tree, batch, jax.random.fold_in(key, 0))
            return out.total / whole(out.weight)

        return value


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    remat: str | None = None,
    pipeline_microbatches: int | None = None,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    max_grad_norm: float | None = None,
    nan: NanPolicy = "report",
    trainable: Trainable = None,
    ema: averages.Decay | None = None,
    scale: LossScale | None = None,
) -> TrainStep:
    """Make a jitted train step: `state = step.init(model, key)`, then `state, metrics = step(state, batch)`.

    accumulate: micro-batches of one step, rows i, i + accumulate, ... of the batch; every token counts alike in
    whichever it lies. remat: what the backward pass computes again, see `jaxformers.nn.remat`. pipeline_microbatches:
    into how many each of these is cut again where rules lay layers in stages; None chooses. mesh, rules: else the
    model's own. dtype: of the computation, the model's own by default; with "float16" the loss is scaled. param_dtype:
    of what is trained (None: as it is); what is frozen keeps its own. max_grad_norm: as `clip_grad_norm_`. nan: when
    the loss or a gradient is not finite, "skip" leaves everything as it was, "raise" does so and raises `NonFinite`,
    for which each step is waited for. trainable: patterns or a predicate of names, see `jaxformers.training.trainable`.
    ema: decay of averages of what is trained, a number or a function of the step. scale: float16's first loss scale.
    Metrics are scalars on the device: loss, grad_norm (before clipping), weight, finite, learning_rate, the loss's own.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate counts micro-batches, at least 1; found {accumulate}")
    if pipeline_microbatches is not None and pipeline_microbatches < 1:
        raise ValueError(f"pipeline_microbatches is {pipeline_microbatches}; expected 1 or more, or None")
    if nan not in ("report", "skip", "raise"):
        raise ValueError(f"nan must be report, skip or raise; found {nan!r}")
    if remat is not None:
        remat_policy(remat)
    return TrainStep(
        loss,
        optimizer,
        accumulate,
        remat,
        pipeline_microbatches,
        mesh,
        rules,
        dtype,
        param_dtype,
        max_grad_norm,
        nan,
        trainable,
        ema,
        scale,
    )
