"""What the forward and backward kernels on TPUs share: the blocks they read and the scores of one block.

Scores are held as [keys, queries]: what belongs to a query (its largest score, its sum, its segment) is then a row,
which spreads over the keys for nothing, and reductions over keys need no shuffle of lanes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.attention.blocks import LANES, Blocks, fit
from jaxformers.kernels.attention.visibility import (
    FIRST,
    IDLE,
    LAST,
    WHOLE,
    Rows,
    Visibility,
    Walk,
    blocks_seen,
    inner_block,
    outer_block,
    rows,
    walk,
)

HIDDEN = -1e30  # the score of a hidden key; real scores are far above it
EMPTY = HIDDEN / 2  # a largest score below it belongs to a query that has seen nothing


@dataclass(frozen=True)
class Settings:
    """What is fixed when a kernel is compiled."""

    scale: float
    softcap: float | None = None
    blocks: Blocks = Blocks()
    vmem: int | None = None  # bytes of fast memory a kernel may use; None: the compiler's own limit
    interpret: Any = False  # True or pltpu.InterpretParams: run without a TPU


class Inputs(NamedTuple):
    """Arrays in memory, or a kernel's references to the blocks of them."""

    q: Any  # [B,H,T,D]
    k: Any  # [B,K,S,D]
    v: Any  # [B,K,S,Dv]
    bias: Any  # [1|B,1|H,1,S], or [1|B,1|H,S,T]: keys first
    rows: Any = None  # Rows
    grad: Any = None  # of the output, in its layout: see `merges`
    lse: Any = None  # [B,H,1,T], log of the sum of exponentials
    delta: Any = None  # [B,H,1,T], sum of output times its gradient


class Plan(NamedTuple):
    """A kernel's work: inputs filled up to whole blocks, the blocks' sizes, and which of them are visible."""

    x: Inputs
    sizes: tuple[int, int]
    some: jax.Array  # Bool [1|B,q blocks,k blocks]
    every: jax.Array

    def by_queries(self) -> tuple[Walk, "Place"]:
        """A walk over blocks of queries, each with its keys; grid (batch, head, step)."""
        return walk(self.some, self.every), Place(self.stride())

    def by_keys(self) -> tuple[Walk, "KeyPlace"]:
        """A walk over blocks of keys, each with its queries; grid (batch, kv head, step, query head of the group)."""
        groups = self.x.q.shape[1] // self.x.k.shape[1]
        return walk(self.some.swapaxes(1, 2), self.every.swapaxes(1, 2)), KeyPlace(self.stride(), groups)

    def stride(self) -> int:
        """Steps from one row of the batch to the next in a walk; 0 where all rows take the same."""
        count, queries, keys = self.some.shape
        return 0 if count == 1 else queries * keys


def plan(x: Inputs, visibility: Visibility, blocks: tuple[int, int]) -> Plan:
    """Lay the work out in blocks of at most these sizes (queries, keys)."""
    lengths = x.q.shape[2], x.k.shape[2]
    (bq, t), (bk, s) = (fit(length, block) for length, block in zip(lengths, blocks, strict=True))
    rules = rows(visibility, lengths, (t, s))
    more = (t - lengths[0], s - lengths[1])
    filled = Inputs(
        grown(x.q, 2, more[0]),
        grown(x.k, 2, more[1]),
        grown(x.v, 2, more[1]),
        keys_first(x.bias, lengths, more),
        rules,
        None if x.grad is None else grown(x.grad, x.grad.ndim - 2, more[0]),
        grown(x.lse, 3, more[0], -HIDDEN),
        grown(x.delta, 3, more[0]),
    )
    return Plan(filled, (bq, bk), *blocks_seen(rules, (t // bq, s // bk), (bq, bk)))


def grown(x: jax.Array | None, axis: int, more: int, value: float = 0.0) -> jax.Array | None:
    """x with `more` entries of `value` at the end of an axis."""
    if x is None or not more:
        return x
    return jnp.pad(x, [(0, more if a == axis else 0) for a in range(x.ndim)], constant_values=value)


def keys_first(bias: jax.Array | None, lengths: tuple[int, int], more: tuple[int, int]) -> jax.Array | None:
    """A bias [1|B,1|H,1|T,1|S] as kernels read it: [1|B,1|H,1,S] or [1|B,1|H,S,T], filled up."""
    if bias is None:
        return None
    bias = jnp.broadcast_to(bias, (*bias.shape[:3], lengths[1]))
    if bias.shape[2] == 1:
        return grown(bias, 3, more[1])
    return grown(grown(bias.swapaxes(2, 3), 2, more[1]), 3, more[0])


@dataclass(frozen=True)
class Place:
    """Where a step of a walk is: grid indices and the packed steps -> batch, head, query block, key block."""

    stride: int  # steps from one row of the batch to the next; 0 where all rows take the same walk

    def step(self, b, n, steps):
        """The packed step."""
        return steps[b * self.stride + n]

    def __call__(self, b, h, n, steps):
        step = self.step(b, n, steps)
        return b, h, outer_block(step), inner_block(step)


@dataclass(frozen=True)
class KeyPlace(Place):
    """Where a step of a walk over keys is; the last axis of the grid counts the query heads that share a key."""

    groups: int

    def __call__(self, b, h, n, g, steps):
        step = self.step(b, n, steps)
        return b, h * self.groups + g, inner_block(step), outer_block(step)


def input_specs(x: Inputs, sizes: tuple[int, int], place: Place) -> Inputs:
    """Which block of each input a step of the walk reads."""
    bq, bk = sizes
    groups = x.q.shape[1] // x.k.shape[1]

    def spec(block: tuple, at: Callable) -> pl.BlockSpec:
        return pl.BlockSpec(block, lambda *grid: at(*place(*grid)))

    def row(array: Any, size: int, queries: bool) -> pl.BlockSpec | None:
        many = array is not None and array.shape[0] > 1
        at = lambda b, h, i, j: (b if many else 0, 0, i if queries else j)  # noqa: E731
        return None if array is None else spec((None, 1, size), at)

    def per_key(size: int) -> pl.BlockSpec:
        return spec((None, None, bk, size), lambda b, h, i, j: (b, h // groups, j, 0))

    def statistic(array: Any) -> pl.BlockSpec | None:
        return None if array is None else spec((None, None, 1, bq), lambda b, h, i, j: (b, h, 0, i))

    r = x.rows
    return Inputs(
        query_spec(x.q, bq, place),
        per_key(x.k.shape[-1]),
        per_key(x.v.shape[-1]),
        bias_spec(x.bias, sizes, spec),
        Rows(
            row(r.slots, bk, False),
            row(r.low, bq, True),
            row(r.high, bq, True),
            row(r.q_segments, bq, True),
            row(r.k_segments, bk, False),
            None if r.prefix is None else pl.BlockSpec(memory_space=pltpu.SMEM),
        ),
        None if x.grad is None else query_spec(x.grad, bq, place, x.q.shape[1]),
        statistic(x.lse),
        statistic(x.delta),
    )


def merges(size: int) -> bool:
    """Whether the output's layout is [B,T,H*Dv], as the next product reads it, and not [B,H,T,Dv].

    That takes heads as wide as the lanes of a register, or a multiple of them.
    """
    return size % LANES == 0


def query_spec(x: Any, block: int, place: Place, heads: int = 1) -> pl.BlockSpec:
    """The block of one head's queries of an array [B,H,T,D] or [B,T,H*D], the latter with so many heads."""

    def at(*grid):
        b, h, i, _ = place(*grid)
        return (b, h, i, 0) if len(x.shape) == 4 else (b, i, h)

    if len(x.shape) == 4:
        return pl.BlockSpec((None, None, block, x.shape[-1]), at)
    return pl.BlockSpec((None, block, x.shape[-1] // heads), at)


def bias_spec(bias: Any, sizes: tuple[int, int], spec: Callable) -> pl.BlockSpec | None:
    """A row for the keys, or a block [keys, queries]."""
    if bias is None:
        return None
    batch, heads, by_key, _ = bias.shape
    where = lambda b, h: (b if batch > 1 else 0, h if heads > 1 else 0)  # noqa: E731
    if by_key == 1:
        return spec((None, None, 1, sizes[1]), lambda b, h, i, j: (*where(b, h), 0, j))
    return spec((None, None, sizes[1], sizes[0]), lambda b, h, i, j: (*where(b, h), j, i))


def each_step(step: jax.Array, begin: Callable, add: Callable, end: Callable, ends: tuple = (True, True)) -> None:
    """Run a step of a walk: `add(masked)` between `begin()` and `end()` of its outer block.

    `ends` says whether this is the first and the last time that the step is visited.
    """
    first, last = ends
    pl.when((step & FIRST != 0) & first)(begin)
    pl.when(step & WHOLE != 0)(lambda: add(False))
    pl.when(step & (WHOLE | IDLE) == 0)(lambda: add(True))
    pl.when((step & LAST != 0) & last)(end)


def column(row: jax.Array) -> jax.Array:
    """[1,n] -> [n,1]."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T[:, :1]


def product(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """Matrix product over one axis of each, in float32; float32 operands keep their precision."""
    exact = a.dtype == jnp.float32 and b.dtype == jnp.float32
    precision = jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a, b, (((over[0],), (over[1],)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


class Scores(NamedTuple):
    """Scores [keys, queries] of a block in float32, and the slope of the soft cap there (None: 1)."""

    values: jax.Array
    slope: jax.Array | None


def scores(x: Inputs, settings: Settings, batch: jax.Array, masked: bool) -> Scores:
    """softcap(k q^T * scale) + bias, HIDDEN where a rule hides the key."""
    s = product(x.k[...], x.q[...], (1, 1))
    slope = None
    if settings.softcap is None:
        s = s * settings.scale
    else:
        bent = jnp.tanh(s * (settings.scale / settings.softcap))
        s, slope = bent * settings.softcap, 1.0 - bent * bent
    if x.bias is not None:
        bias = x.bias[...].astype(jnp.float32)
        s = s + (column(bias) if bias.shape[0] == 1 else bias)
    if masked:
        seen = visible(x.rows, batch)
        s = s if seen is None else jnp.where(seen, s, HIDDEN)
    return Scores(s, slope)


def visible(r: Rows, batch: jax.Array) -> jax.Array | None:
    """Bool [keys, queries] of a block."""
    seen = None
    if r.slots is not None:
        slots = column(r.slots[...])
        if r.low is not None:
            seen = slots >= r.low[...]
        if r.high is not None:
            seen = both(seen, slots <= r.high[...])
        if r.prefix is not None:
            first = slots < r.prefix[batch if r.prefix.shape[0] > 1 else 0]
            seen = first if seen is None else seen | first
    if r.k_segments is not None:
        seen = both(seen, column(r.k_segments[...]) == r.q_segments[...])
    return seen


def both(a: jax.Array | None, b: jax.Array) -> jax.Array:
    """Logical and, where None stands for all True."""
    return b if a is None else a & b
