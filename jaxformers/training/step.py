"""The train step: a pure, jitted, donated function (state, batch) -> (state, metrics), and how its state begins."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxformers.core.sharding import FSDP, Rules, auto_mesh, use_mesh
from jaxformers.hub.abstract import Path, as_dtype
from jaxformers.hub.model import Model
from jaxformers.nn.stack import relayout
from jaxformers.training import placement
from jaxformers.training.gradients import accumulated, global_norm, of_sum, whole
from jaxformers.training.losses.output import Batch, Loss
from jaxformers.training.scaling import LossScale
from jaxformers.training.state import TrainState
from jaxformers.training.trainable import Trainable, choose, leaf_paths, pick, put

Metrics = dict[str, jax.Array]
NanPolicy = Literal["report", "skip", "raise"]


class NonFinite(FloatingPointError):
    """A step met NaN or infinity; `state` is as before it but for the step count, `metrics` are the step's."""

    def __init__(self, state: TrainState, metrics: Metrics) -> None:
        super().__init__(
            f"step {int(state.step)} met a value that is not finite: loss {float(metrics['loss'])}, gradient norm "
            f"{float(metrics['grad_norm'])}. The parameters are as before it: see this error's `state`"
        )
        self.state, self.metrics = state, metrics


@dataclass(eq=False)
class TrainStep:
    """`state, metrics = step(state, batch)`; made by `make_train_step`."""

    loss: Loss
    optimizer: optax.GradientTransformation
    accumulate: int = 1
    remat: str | None = None
    mesh: Mesh | None = None
    rules: Rules | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32
    max_grad_norm: float | None = None
    nan: NanPolicy = "report"
    trainable: Trainable = None
    ema: float | Callable[[jax.Array], jax.Array] | None = None
    programs: dict[Any, Any] = field(default_factory=dict, repr=False)

    # Beginning

    def prepared(self, model: Model) -> Model:
        """The model as it will be trained: its mesh, compute dtype and remat policy set; no array is touched."""
        static = model._static
        changes: dict[str, Any] = {}
        if self.mesh is not None:
            rules = self.rules if self.rules is not None else FSDP
            changes |= {"mesh": auto_mesh(self.mesh, rules), "rules": rules}
        elif self.rules is not None and static.mesh is not None:
            changes["rules"] = self.rules
        if self.dtype is not None:
            changes["compute_dtype"] = as_dtype(self.dtype)
        if self.remat is not None:
            changes["module"] = relayout(model.module, remat=self.remat)
        return model.replace(**changes) if changes else model

    def init(self, model: Model, key: jax.Array) -> TrainState:
        """The state at step 0, in arrays of its own: the step donates them, and the model given stays usable."""
        plan = self.planned(self.prepared(model))
        wanted = jax.tree.leaves(plan.model)
        own = [copied(x, w) for x, w in zip(jax.tree.leaves(model), wanted, strict=True)]
        placed = jax.tree.unflatten(jax.tree.structure(plan.model), own)
        places = self.shardings(plan)
        rest = None if places is None else places.replace(model=None)
        begin = jax.jit(self.beginning, static_argnums=2, out_shardings=rest)
        return begin(pick(placed, choose(placed, self.trainable)), key, placed._static.compute_dtype).replace(
            model=placed
        )

    def beginning(self, tree: Any, key: jax.Array, dtype: Any) -> TrainState:
        """All of a state but the model. Values are copied, since a buffer that stands twice cannot be donated."""
        opt_state = jax.tree.map(jnp.copy, self.optimizer.init(tree))
        scale = LossScale.start() if dtype is not None and dtype == jnp.float16 else None
        ema = None if self.ema is None else jax.tree.map(jnp.copy, tree)
        return TrainState(jnp.int32(0), None, opt_state, jax.random.clone(key), scale, ema)  # type: ignore[arg-type]

    def planned(self, model: Model) -> TrainState:
        """The state as shapes with their shardings; `model` is prepared, of arrays or of shapes."""
        chosen = choose(model, self.trainable)
        mesh, rules = model.mesh, model.rules
        kinds = [
            self.param_dtype if path in chosen and self.param_dtype is not None else leaf.dtype
            for path, leaf in zip(leaf_paths(model), jax.tree.leaves(model), strict=True)
        ]
        leaves, structure = jax.tree.flatten(model)
        spots = [None] * len(leaves) if mesh is None else placement.model_shardings(model, mesh, rules)
        shapes = [jax.ShapeDtypeStruct(x.shape, k, sharding=s) for x, k, s in zip(leaves, kinds, spots, strict=True)]
        plan = jax.tree.unflatten(structure, shapes)
        tree = pick(plan, chosen)
        rest = jax.eval_shape(partial(self.beginning, dtype=model._static.compute_dtype), tree, jax.random.key(0))
        state = rest.replace(model=plan)
        if mesh is None:
            return state
        here = dict(zip(leaf_paths(model), spots, strict=True))
        sizes = {path: tuple(leaf.shape) for path, leaf in zip(leaf_paths(model), leaves, strict=True)}
        trained = {path: spot for path, spot in here.items() if path in chosen}
        return placed_like(state, trained, sizes, mesh)

    def abstract(self, model: Model, batch: Any) -> tuple[TrainState, Any]:
        """State and batch as shapes with shardings, from a model and a batch of shapes or arrays; nothing is made."""
        state = self.planned(self.prepared(model))
        mesh, rules = state.model.mesh, state.model.rules

        def one(x: Any) -> jax.ShapeDtypeStruct:
            spot = None if mesh is None else placement.batch_sharding(x.shape, mesh, rules)
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or spot)

        return state, jax.tree.map(one, batch)

    # Running

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One optimiser step. The state given is donated: its arrays are gone, go on with the one returned."""
        model = state.model
        if model.mesh is not None:
            batch = placement.place_batch(batch, model.mesh, model.rules)
        state, metrics = self.program(state)(state, batch)
        if self.nan == "raise" and not bool(metrics["finite"]):
            raise NonFinite(state, metrics)
        return state, metrics

    def lower(self, state: TrainState, batch: Batch) -> Any:
        """The step lowered for these arrays or shapes: `.compile()` tells its memory without running it."""
        return self.program(state).lower(state, batch)

    def program(self, state: TrainState) -> Any:
        """The jitted step for states of this structure, whose results stay where the arguments were."""
        structure = jax.tree.structure(state)
        if structure not in self.programs:
            places = self.shardings(state)
            mesh = state.model.mesh
            out = {} if places is None else {"out_shardings": (places, NamedSharding(mesh, PartitionSpec()))}
            self.programs[structure] = jax.jit(self.update, donate_argnums=0, **out)
        return self.programs[structure]

    def shardings(self, state: TrainState) -> TrainState | None:
        """The sharding of each leaf; None without a mesh."""
        if state.model.mesh is None:
            return None
        return jax.tree.map(lambda x: x.sharding, state)

    def update(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """The pure function behind the step."""
        static = state.model._static
        with use_mesh(static.mesh, static.rules):
            chosen = choose(state.model, self.trainable)
            tree = pick(state.model, chosen)
            grads, sums = self.gradients(state, tree, batch)
        weight = whole(sums.weight)
        norm = global_norm(grads) / weight
        loss = sums.total / weight
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        clip = 1.0 if self.max_grad_norm is None else jnp.minimum(1.0, self.max_grad_norm / (norm + 1e-6))
        grads = jax.tree.map(lambda g: g * (clip / weight).astype(g.dtype), grads)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, tree)
        new = state.replace(model=put(state.model, optax.apply_updates(tree, updates)), opt_state=opt_state)
        if self.nan != "report" or state.scale is not None:
            new = jax.tree.map(lambda a, b: a if a is b else jnp.where(finite, a, b), new, state)
        if state.scale is not None:
            new = new.replace(scale=state.scale.adjust(finite))
        metrics = {name: value / weight for name, value in sums.metrics.items()}
        metrics |= {"loss": loss, "grad_norm": norm, "weight": sums.weight, "finite": finite}
        return new.replace(step=state.step + 1), metrics

    def gradients(self, state: TrainState, tree: Any, batch: Batch) -> tuple[Any, Any]:
        """Gradients of the summed loss by the trainable leaves, and the sums."""
        model, static = state.model, state.model._static

        def loss(tree: Any, batch: Batch, key: jax.Array):
            return self.loss(put(model, tree), batch, key)

        def pin(parts: Any) -> Any:
            if static.mesh is None:
                return parts
            spot = partial(placement.batch_sharding, mesh=static.mesh, rules=static.rules, axis=1)
            return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spot(x.shape)), parts)

        find = of_sum(loss, tree, None if state.scale is None else state.scale.value)
        key = jax.random.fold_in(state.key, state.step)
        return accumulated(find, batch, key, self.accumulate, pin, jax.tree.map(jnp.zeros_like, tree))


def copied(x: jax.Array, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """A new array with the values of `x`, in the dtype and place of a plan."""
    # device_put alone may hand on the very buffer, which the first step would then take from the caller's model.
    placed = x if wanted.sharding is None else jax.device_put(x, wanted.sharding)
    return jnp.array(placed, wanted.dtype, copy=True)


def placed_like(state: TrainState, spots: dict[Path, NamedSharding], sizes: dict[Path, tuple[int, ...]], mesh: Mesh):
    """The planned state with a sharding on every leaf: moments and averages where their parameters are."""
    rest = state.replace(model=None)
    places = placement.mirrored(rest, spots, sizes, mesh)
    rest = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), rest, places)
    return rest.replace(model=state.model)


def make_train_step(loss: Loss, optimizer: optax.GradientTransformation, **options: Any) -> TrainStep:
    """A jitted, donated train step; options are the fields of `TrainStep`."""
    return TrainStep(loss, optimizer, **options)
