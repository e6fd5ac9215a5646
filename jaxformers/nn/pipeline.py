"""Pipeline: a run of stacked layers cut into stages on different devices, through which parts of the batch flow.

Every tick, all stages compute at once, each on another microbatch, and hand their outputs on to the next stage. The
stages are one more axis of every array, which the mesh cuts, so XLA partitions all other axes as it does elsewhere. The
schedule is GPipe's (arXiv:1811.06965): with S stages and M microbatches a pass takes M + S - 1 ticks, of which a device
idles S - 1. The backward pass is the derivative of the loop; of the forward pass it keeps what each stage was given.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxformers.core.context import Context
from jaxformers.core.sharding import AnyMesh, Rules, axes_of, free_axes, mesh_and_rules, spec, use_mesh

Axes = tuple[str, ...]
Keys = dict[str, jax.Array]
# layer(variables of one repetition, x, ctx, keys) -> (x, records)
Layer = Callable[[Any, jax.Array, Context, Keys], tuple[jax.Array, Any]]

ENOUGH = 2  # microbatches for each stage: a third of the ticks idle at most


class Plan(NamedTuple):
    """How a run of layers lies on the mesh, and how the batch is cut. rules: inside of a stage."""

    mesh: AnyMesh
    rules: Rules
    axes: Axes
    stages: int
    microbatches: int

    @property
    def ticks(self) -> int:
        """Of one pass; in the first and the last ones some stages idle."""
        return self.microbatches + self.stages - 1


def stage_axes() -> Axes:
    """The axes of the mesh in use that cut stacked layers."""
    active = mesh_and_rules()
    return () if active is None else layer_axes(*active)


def layer_axes(mesh: AnyMesh, rules: Rules) -> Axes:
    """The axes of a mesh that cut stacked layers."""
    sizes = free_axes(mesh)
    return tuple(axis for axis in axes_of(dict(rules).get("layers")) if sizes.get(axis, 1) > 1)


def check_stages(repeats: list[int]) -> None:
    """Raise ValueError where the rules cut layers into stages and no run of a stack, repeating so often, divides."""
    if not (axes := stage_axes()) or not repeats:
        return
    stages = math.prod(mesh_and_rules()[0].shape[axis] for axis in axes)  # type: ignore[index]
    if all(n % stages for n in repeats):
        runs = " and ".join(map(str, repeats))
        raise ValueError(
            f"the mesh has {stages} stages along {', '.join(axes)}, and runs of stacked layers repeat {runs} times: "
            "make the number of stages a divisor"
        )


def plan_pipeline(repeats: int, batch: int, microbatches: int | None) -> Plan | None:
    """How `repeats` repetitions lie in stages, by the rules in use; else as `plan_on`."""
    active = mesh_and_rules()
    return None if active is None else plan_on(*active, repeats, batch, microbatches)


def plan_on(mesh: AnyMesh, rules: Rules, repeats: int, batch: int, microbatches: int | None) -> Plan | None:
    """How `repeats` repetitions are cut into stages; None where the rules and the mesh do not cut them.

    microbatches: None for twice the number of stages, or what divides the batch and leaves rows for each device.
    Raises ValueError when the batch does not divide by a number that is given.
    """
    axes = axes_of(spec(("layers",), (repeats,), mesh, rules)[0])
    stages = math.prod(mesh.shape[axis] for axis in axes)
    if stages == 1:
        return None
    inside = without(rules, axes)
    if microbatches is None:
        sizes = free_axes(mesh)
        places = math.prod(sizes.get(axis, 1) for axis in axes_of(dict(inside).get("batch")))
        microbatches = choose_microbatches(batch, ENOUGH * stages, places)
    elif batch % microbatches:
        raise ValueError(f"a batch of {batch} rows does not divide into {microbatches} microbatches; change either")
    return Plan(mesh, inside, axes, stages, microbatches)


def choose_microbatches(batch: int, most: int, places: int) -> int:
    """The largest number up to `most` that divides the batch into parts that divide over `places` devices, or that
    divides it at all.
    """
    numbers = [n for n in range(1, min(most, batch) + 1) if batch % n == 0]
    even = [n for n in numbers if batch // n % places == 0]
    return max(even or numbers)


def without(rules: Rules, axes: Axes) -> Rules:
    """The rules for a mesh on which these axes are taken."""
    return tuple((name, tuple(axis for axis in axes_of(entry) if axis not in axes)) for name, entry in rules)


def flow(plan: Plan, layer: Layer, variables: Any, x: jax.Array, ctx: Context, keys: Keys) -> tuple[jax.Array, Any]:
    """Run x [B,...] through all repetitions; records come stacked by repetition, [repeats,B,...].

    variables: leaves [repeats,...]. Of the context, what holds something for each example flows along. Stages that wait
    compute on copies of real rows, whose results nobody reads: zeros might give infinities, and gradients of NaN.
    """
    shared, moving, join = parted(ctx, len(x))
    fed = jax.tree.map(lambda a: feed(plan, a), (x, moving))
    held = jax.tree.map(lambda a: a[0], fed)
    stacked = jax.tree.map(lambda a: pin(plan, a.reshape(plan.stages, -1, *a.shape[1:]), "stages"), variables)
    repeats = jax.tree.leaves(variables)[0].shape[0]
    drawn = {name: jax.random.split(key, (plan.stages, repeats // plan.stages)) for name, key in keys.items()}
    # One copy for each stage: their gradients are added up after the loop, not in every tick.
    shared = [copies(plan, a) if jnp.issubdtype(a.dtype, jnp.inexact) else a for a in shared]
    copied = [0 if jnp.issubdtype(a.dtype, jnp.inexact) else None for a in shared]

    def stage(variables: Any, held: Any, shared: list, drawn: Keys, microbatch: jax.Array):
        x, moving = held

        def body(x: jax.Array, one: tuple[Any, Keys]):
            variables, keys = one
            keys = {name: jax.random.fold_in(key, microbatch) for name, key in keys.items()}
            return layer(variables, x, join(shared, moving), keys)

        return jax.lax.scan(body, x, (variables, drawn))

    places = jnp.arange(plan.stages)
    every = jax.vmap(stage, in_axes=(0, 0, copied, 0, 0), spmd_axis_name=plan.axes)

    def tick(held: Any, step: tuple[Any, jax.Array]):
        fresh, time = step
        held = jax.tree.map(lambda a, b: pin(plan, entered(a, b), "stages", "batch"), held, fresh)
        y, records = every(stacked, held, shared, drawn, jnp.clip(time - places, 0, plan.microbatches - 1))
        y = pin(plan, y, "stages", "batch")
        following = jax.tree.map(lambda a: pin(plan, jnp.roll(a, 1, axis=0), "stages", "batch"), (y, held[1]))
        return following, (y, records)

    times = jnp.arange(plan.ticks)
    with use_mesh(plan.mesh, plan.rules):  # type: ignore[arg-type]
        _, (y, records) = jax.lax.scan(jax.checkpoint(tick, prevent_cse=False), held, (fed, times))
    rows = len(x) // plan.microbatches
    return last(plan, y), jax.tree.map(lambda r: collected(plan, r, rows), records)


def parted(ctx: Context, batch: int) -> tuple[list, list, Callable[[list, list], Context]]:
    """The context's arrays for all examples, those with something for each, and how both become a context again."""
    leaves, tree = jax.tree.flatten(ctx)
    by_row = jax.tree.leaves(ctx.by_row(batch))

    def join(shared: list, moving: list) -> Context:
        a, b = iter(shared), iter(moving)
        return jax.tree.unflatten(tree, [next(b) if moves else next(a) for moves in by_row])

    pairs = list(zip(leaves, by_row, strict=True))
    return [x for x, moves in pairs if not moves], [x for x, moves in pairs if moves], join


def pin(plan: Plan, x: jax.Array, *names: str | None) -> jax.Array:
    """Place the first axes: "stages" over the stages, "batch" as the rules say; XLA places the others."""
    rules = (*plan.rules, ("stages", plan.axes))
    first = spec(names, x.shape[: len(names)], plan.mesh, rules)
    rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - len(names))
    return jax.lax.with_sharding_constraint(x, NamedSharding(plan.mesh, PartitionSpec(*first, *rest)))


def copies(plan: Plan, x: jax.Array) -> jax.Array:
    """One copy on each stage."""
    return pin(plan, jnp.broadcast_to(x, (plan.stages, *x.shape)), "stages")


def feed(plan: Plan, x: jax.Array) -> jax.Array:
    """What enters the first stage in each tick, [ticks,S,B/M,...], from [B,...]; the last microbatch stays at the end.

    Microbatch i has rows i, i + M, ..., so each device cuts its own rows. All stages get it, and one reads it: so its
    gradient is added up after the loop.
    """
    x = x.reshape(-1, plan.microbatches, *x.shape[1:]).swapaxes(0, 1)
    # In two steps: where the rows lie outside of the pipeline, then gathered.
    x = pin(plan, pin(plan, x, "stages", "batch"), None, "batch")
    x = jnp.concatenate([x, jnp.repeat(x[-1:], plan.stages - 1, axis=0)])
    x = jnp.broadcast_to(x[:, None], (len(x), plan.stages, *x.shape[1:]))
    return pin(plan, x, None, "stages", "batch")


def entered(held: jax.Array, fresh: jax.Array) -> jax.Array:
    """What the stages hold, with `fresh` in the first."""
    place = jnp.arange(len(held)).reshape(-1, *(1,) * (held.ndim - 1))
    return jnp.where(place == 0, fresh, held)


def to_rows(x: jax.Array, rows: int) -> jax.Array:
    """[M,rows*k,...] as [M*rows*k,...], examples in their old order; k is what an example has in a record."""
    count = x.shape[0]
    x = x.reshape(count, rows, -1, *x.shape[2:])
    return x.swapaxes(0, 1).reshape(-1, *x.shape[3:])


def last(plan: Plan, y: jax.Array) -> jax.Array:
    """[B,...] from what all stages put out in all ticks, [ticks,S,B/M,...]."""
    y = y[plan.stages - 1 :]
    place = jnp.arange(plan.stages).reshape(-1, *(1,) * (y.ndim - 2))
    # A sum with zeros is an exchange of the last stage's output alone.
    y = jnp.where(place == plan.stages - 1, y, 0).sum(axis=1, dtype=y.dtype)
    y = pin(plan, y, "stages", "batch")
    return to_rows(y, y.shape[1])


def collected(plan: Plan, record: jax.Array, rows: int) -> jax.Array:
    """[repeats,B*k,...] from records of all ticks, [ticks,S,repeats/S,B/M*k,...]."""

    def own(record: jax.Array, stage: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(record, stage, plan.microbatches, axis=0)

    by_stage = jax.vmap(own, in_axes=(1, 0), spmd_axis_name=plan.axes)(record, jnp.arange(plan.stages))
    by_layer = by_stage.swapaxes(1, 2).reshape(-1, plan.microbatches, *record.shape[3:])
    return jax.vmap(to_rows, in_axes=(0, None))(by_layer, rows)
