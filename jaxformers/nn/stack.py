"""Stack: layers in order, with runs that repeat scanned; the parameter tree tells which.

A scanned run is named with Python's range: `layers/0:26:2/1/...` are layers 1, 3, ..., 25. A lone layer is `layers/25`.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.sharding import constrain
from jaxformers.nn.pipeline import Keys, Plan, check_stages, flow, plan_pipeline
from jaxformers.nn.remat import remat_policy

Segments = tuple[tuple[int, int, int], ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Layers:
    """One block template for each layer, as plain data: linen does not look inside, and equal blocks can be stacked."""

    blocks: tuple[nn.Module, ...]

    @cached_property
    def segments(self) -> Segments:
        """(start, stop, period): few runs such that each repeats one short pattern of blocks."""
        out, i, count = [], 0, len(self.blocks)
        kinds: list[nn.Module] = []
        ids = [index_of(kinds, b) for b in self.blocks]
        while i < count:
            best = (i, i + 1, 1)
            for period in range(1, (count - i) // 2 + 1):
                stop = i + period
                while stop + period <= count and ids[stop : stop + period] == ids[i : i + period]:
                    stop += period
                if stop > i + period and stop > best[1]:
                    best = (i, stop, period)
            out.append(best)
            i = best[1]
        return tuple(out)

    @cached_property
    def _hash(self) -> int:
        return hash(self.blocks)

    def __hash__(self) -> int:
        return self._hash  # hashing a hundred modules on every call would cost a millisecond


def index_of(kinds: list[nn.Module], block: nn.Module) -> int:
    """The place of an equal block in `kinds`, added if new."""
    for n, kind in enumerate(kinds):
        if kind is block or kind == block:
            return n
    kinds.append(block)
    return len(kinds) - 1


class Pattern(nn.Module):
    """One repetition of a `Segment`, with parameters of its own."""

    blocks: Layers
    remat: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context):
        x, _, records = run(self.blocks, x, ctx, None, self.remat)
        return x, records


class Segment(nn.Module):
    """Copies of a short pattern of blocks under one scan; parameters are stacked on axis 0.

    Where the rules in use cut that axis, it is a pipeline: each stage of the mesh scans its own part.
    """

    pattern: Layers
    repeats: int
    remat: str | None = None
    microbatches: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        # What is written besides outputs (fresh parameters, a state, intermediates) is written in one place.
        writes = any(map(self.is_mutable_collection, ("params", "lora", "intermediates")))
        if state is None and not writes and (plan := plan_pipeline(self.repeats, len(x), self.microbatches)):
            return self.in_stages(plan, x, ctx)

        def body(module: nn.Module, carry, row):
            x, state = carry
            # The state travels in the carry: as scanned input and output it would be copied whole at every step.
            here = jax.tree.map(lambda c: jax.lax.dynamic_index_in_dim(c, row, 0, False), state)
            x, new, records = run(self.pattern, x, ctx, here, self.remat)
            if state is not None:
                state = jax.tree.map(lambda c, n: jax.lax.dynamic_update_index_in_dim(c, n, row, 0), state, new)
            return (x, state), records

        scan = nn.scan(
            body,
            variable_axes={"params": 0, "lora": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True, "lora": True},
            length=self.repeats,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        (x, state), records = scan(self, (x, state), jnp.arange(self.repeats))
        return x, state, self.by_layer(records)

    def in_stages(self, plan: Plan, x: jax.Array, ctx: Context):
        """The pipeline."""
        one = Pattern(self.pattern, self.remat, parent=None)

        def layer(variables: Any, x: jax.Array, ctx: Context, keys: Keys):
            return one.apply(variables, x, ctx, rngs=keys)

        keys = {name: self.make_rng(name) for name in ("dropout", "lora") if self.has_rng(name)}
        x, records = flow(plan, layer, self.variables, x, ctx, keys)
        return x, None, self.by_layer(records)

    def by_layer(self, records: list) -> list:
        """Records of each layer, from those of each block of the pattern, stacked by repetition."""
        return [jax.tree.map(lambda r, n=n: r[n], one) for n in range(self.repeats) for one in records]


class Sample(nn.Module):
    """The first repetition of a `Segment`, to trace shapes: leaves bear a segment's names and are not stacked."""

    pattern: Layers
    repeats: int
    remat: str | None = None
    microbatches: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        if self.remat is not None:
            remat_policy(
                self.remat
            )  # shapes do not need it, but an unknown one is refused here and not in the first call
        x, state, records = run(self.pattern, x, ctx, state)
        return x, state, records * self.repeats


def run(layers: Layers, x: jax.Array, ctx: Context, state: tuple | None, remat: str | None = None, start: int = 0):
    """Apply blocks one after another; block n becomes the child named str(start + n)."""
    states, records = [], []
    for n, block in enumerate(layers.blocks):

        def call(module: nn.Module, x, ctx, before):
            return module(x, ctx, before)

        if remat is not None:
            call = nn.remat(call, policy=remat_policy(remat), prevent_cse=False)
        x, new, seen = call(block.copy(name=str(start + n)), x, ctx, None if state is None else state[n])
        x = constrain(x, "batch", "length", None) if x.ndim == 3 else constrain(x, "batch", *(None,) * (x.ndim - 1))
        states.append(new)
        records.append({**seen, "hidden_states": x} if ctx.records("hidden_states") else seen)
    return x, None if state is None else tuple(states), records


class Stack(nn.Module):
    """Layers in order; returns (x, states, records), records being tuples with an entry for each layer that has one."""

    layers: Layers
    scan: bool = False
    remat: str | None = None
    segment: type[nn.Module] = Segment  # what runs a pattern that repeats
    microbatches: int | None = None  # of a pipeline; None for a number that follows from the stages and the batch

    @property
    def segments(self) -> Segments:
        """Runs of layers that share one set of stacked leaves."""
        return self.layers.segments if self.scan else tuple((i, i + 1, 1) for i in range(len(self.layers.blocks)))

    def init_state(self, batch: int, length: int, dtype, encoder_length: int = 0) -> tuple:
        """Empty decoding states, in the layout of the parameters."""
        out: list[Any] = []
        for start, stop, period in self.segments:
            one = [
                b.init_state(batch, length, dtype, encoder_length) for b in self.layers.blocks[start : start + period]
            ]
            if stop - start == 1:
                out.append(one[0])
                continue
            repeats = (stop - start) // period
            out.append(jax.tree.map(lambda z, n=repeats: jnp.broadcast_to(z, (n, *z.shape)), tuple(one)))
        return tuple(out)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        runs = [(stop - start) // period for start, stop, period in self.segments if stop - start > 1]
        if state is None:
            check_stages(runs)
        states, by_layer = [], []
        first = x
        for n, (start, stop, period) in enumerate(self.segments):
            before = None if state is None else state[n]
            if stop - start == 1:
                one = Layers((self.layers.blocks[start],))
                x, new, seen = run(one, x, ctx, None if before is None else (before,), self.remat, start)
                new = None if new is None else new[0]
            else:
                pattern = Layers(self.layers.blocks[start : start + period])
                repeats, name = (stop - start) // period, f"{start}:{stop}:{period}"
                one = self.segment(pattern, repeats, self.remat, self.microbatches, name=name)
                x, new, seen = one(x, ctx, before)
            states.append(new)
            by_layer.extend(seen)
        records = {name: tuple(r[name] for r in by_layer if name in r) for r in by_layer for name in r}
        if ctx.records("hidden_states"):
            records["hidden_states"] = (first, *records.get("hidden_states", ()))
        return x, None if state is None else tuple(states), records


def relayout(module: T, **changes: Any) -> T:
    """The same module with every `Stack` in it changed: `relayout(module, scan=True, remat="full")`."""
    if isinstance(module, tuple):
        new_items = tuple(relayout(m, **changes) for m in module)
        # Unchanged things stay the same objects: a module that two others share must remain one.
        same = all(a is b for a, b in zip(new_items, module, strict=True))
        return module if same else new_items  # type: ignore[return-value]
    if not isinstance(module, nn.Module):
        return module
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    new = {k: relayout(v, **changes) for k, v in fields.items()}
    if isinstance(module, Stack):
        new |= changes
    changed = {k: v for k, v in new.items() if v is not fields[k]}
    return module.clone(**changed) if changed else module
