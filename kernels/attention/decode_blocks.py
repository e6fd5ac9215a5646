"""What the kernels share that read a cache: how queries and keys are packed, and one block of scores.

All heads of a row's queries are the rows of one product with a block of the cache as it lies in memory, where the kv
heads of a token are neighbours: [tokens * kv heads, head dim]. A query's scores with other kv heads are hidden. On a
matrix unit that costs nothing while queries times heads are no more than its width, since each key passes through it
once either way; picking out one head would move the block. Scores are [queries * heads, tokens * kv heads].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.attention.blocks import LANES
from jaxformers.kernels.attention.tpu_blocks import EMPTY, HIDDEN, both, product

BLOCK_BYTES = 2**19  # of keys that a step reads: a step's fixed cost is small beside it
SCORES = 2**18  # of a block: they, and what is made of them, lie in fast memory
COLUMNS = 256  # rows of queries times heads in a step


@dataclass(frozen=True)
class Settings:
    """What is fixed when a kernel is compiled."""

    scale: float
    softcap: float | None = None
    splits: int = 1  # parts of a row's keys that run side by side, where a chip has several cores
    block_bytes: int = BLOCK_BYTES
    vmem: int | None = None  # bytes of fast memory a kernel may use; None: the compiler's own limit
    interpret: Any = False  # True or pltpu.InterpretParams: run without a TPU


class Stored(NamedTuple):
    """Keys and values as a cache holds them: of whole rows, or pages [P,size,K,D] of which a table says the order."""

    k: jax.Array  # [B,S,K,D]
    v: jax.Array  # [B,S,K,Dv]
    k_scale: jax.Array | None = None  # float32 [B,S,K]: what int8 keys are multiplied with
    v_scale: jax.Array | None = None
    table: jax.Array | None = None  # Int32 [B,M]: the page that holds a row's tokens from m * size on


class Columns(NamedTuple):
    """What belongs to each of the packed queries, [1|B,N,1]; arrays in memory or a kernel's references."""

    q: Any  # [B,N,D]
    head: Any  # Int32: its kv head; None where there is one only
    low: Any = None  # Int32: the first slot that it sees
    high: Any = None  # Int32: the last
    segment: Any = None  # Int32
    sink: Any = None  # float32
    pick: Any = None  # float32 [1,N,biases]: which row of a block's biases is its own; None where all share one


class Keys(NamedTuple):
    """A block of R = tokens * kv heads of the cache, and what belongs to each of them."""

    k: Any  # [R,D]
    v: Any  # [R,Dv]
    k_scale: Any = None  # float32 [1,R]
    v_scale: Any = None
    head: Any = None  # Int32 [1,R]
    slots: Any = None  # Int32 [1,R]
    segments: Any = None  # Int32 [1,R]
    bias: Any = None  # float32 [biases,R]


class Running(NamedTuple):
    """A running softmax: weighted values so far [N,Dv], largest score and sum of powers [N,1], all float32."""

    total: Any
    largest: Any
    mass: Any


def running(columns: int, dv: int) -> list:
    """Fast memory for it."""
    return [pltpu.VMEM((columns, size), jnp.float32) for size in (dv, 1, 1)]


def block_tokens(tokens: int, heads: int, row_bytes: int, columns: int, block_bytes: int) -> int:
    """Tokens in a block of the cache: all, or as many as make whole registers and fit."""
    rows = min(block_bytes // row_bytes, SCORES // max(columns, 8))
    count = 8
    while 2 * count * heads <= rows or count * heads % LANES:
        count *= 2
    return tokens if tokens <= count else count


def columns_fit(count: int) -> tuple[int, int]:
    """Packed queries in a step, and in all when filled up."""
    return (count, count) if count <= COLUMNS else (COLUMNS, -(-count // COLUMNS) * COLUMNS)


def begin(state: Running, sink: jax.Array | None) -> None:
    """Nothing is seen; a sink is one more key, seen first, without a value."""
    state.total[...] = jnp.zeros_like(state.total)
    state.largest[...] = jnp.full_like(state.largest, HIDDEN) if sink is None else sink
    state.mass[...] = jnp.full_like(state.mass, 0.0 if sink is None else 1.0)


def add(settings: Settings, state: Running, columns: Columns, keys: Keys, see: Callable | None, end: Any) -> None:
    """Take a block of keys in. see: (seen so far) -> seen, Bool [N,R]; None where the block is visible.

    end: rows of the block from here on are beyond the cache and hold anything; None where there are none.
    """
    q = columns.q[...]
    s = product(q, keys.k[...].astype(q.dtype), (1, 1))
    s = s * settings.scale if keys.k_scale is None else s * (keys.k_scale[...] * settings.scale)
    if settings.softcap is not None:
        s = jnp.tanh(s / settings.softcap) * settings.softcap
    if keys.bias is not None:
        bias = keys.bias[...]
        s = s + (bias if columns.pick is None else product(columns.pick[...], bias, (1, 0)))
    seen = None if columns.head is None else columns.head[...] == keys.head[...]
    if see is not None:
        seen = see(seen)
    if seen is not None:
        s = jnp.where(seen, s, HIDDEN)
    before = state.largest[...]
    now = jnp.maximum(before, jnp.max(s, axis=1, keepdims=True))
    state.largest[...] = now
    # Where nothing was seen yet, the powers of hidden scores must be 0, not exp(HIDDEN - HIDDEN) = 1.
    base = jnp.where(now < EMPTY, 0.0, now)
    powers, fade = jnp.exp(s - base), jnp.exp(before - base)
    state.mass[...] = state.mass[...] * fade + jnp.sum(powers, axis=1, keepdims=True)
    v = keys.v[...].astype(q.dtype)
    if keys.v_scale is not None:
        powers = powers * keys.v_scale[...]
    if end is not None:
        v = jnp.where(jax.lax.broadcasted_iota(jnp.int32, v.shape, 0) < end, v, 0)
        if keys.v_scale is not None:
            powers = jnp.where(jax.lax.broadcasted_iota(jnp.int32, powers.shape, 1) < end, powers, 0.0)
    state.total[...] = state.total[...] * fade + product(powers.astype(v.dtype), v, (1, 0))


def finish(state: Running, out: Any, share: Any = None) -> None:
    """Write the output, zeros for a query that saw nothing; of a split also its largest score and sum, [N,2]."""
    whole = jnp.where(state.mass[...] > 0.0, state.mass[...], 1.0)
    out[...] = (state.total[...] / whole).astype(out.dtype)
    if share is not None:
        share[:, :1] = state.largest[...]
        share[:, 1:] = state.mass[...]


def within(seen: Any, keys: Any, columns: Columns) -> jax.Array | None:
    """Between a query's first and last slot, where it has them."""
    if columns.low is not None:
        seen = both(seen, keys >= columns.low[...])
    return seen if columns.high is None else both(seen, keys <= columns.high[...])


def kv_head(columns: int, heads: int, kv: int) -> jax.Array | None:
    """The kv head of each packed query, Int32 [1,columns,1]; None where there is one only."""
    if kv == 1:
        return None
    return (jnp.arange(columns, dtype=jnp.int32) % heads // (heads // kv))[None, :, None]


def row_head(tokens: int, kv: int) -> jax.Array | None:
    """The kv head of each row of a block, Int32 [1,tokens * kv]; None where there is one only."""
    return None if kv == 1 else jnp.tile(jnp.arange(kv, dtype=jnp.int32), tokens)[None]


def repeated(x: Any, heads: int, blocks: int) -> jax.Array | None:
    """[.,1,S] of tokens -> [.,blocks,1,R] of the rows in each block."""
    return None if x is None else jnp.repeat(x, heads, axis=2).reshape(x.shape[0], blocks, 1, -1)


def merge(out: jax.Array, share: jax.Array) -> jax.Array:
    """One output of those of the splits. out [splits,...,Dv] float32, share [splits,...,2] as `finish` writes it."""
    largest, mass = share[..., :1], share[..., 1:]
    weight = mass * jnp.exp(largest - largest.max(0))
    whole = weight.sum(0)
    return (weight * out).sum(0) / jnp.where(whole > 0.0, whole, 1.0)


@custom_vmap
def in_memory(x: jax.Array) -> jax.Array:
    """x, which a kernel reads where it is: XLA would bring all of a small cache to fast memory first, seen or not."""
    return pltpu.with_memory_space_constraint(x, pltpu.HBM)


@in_memory.def_vmap
def many_in_memory(size: int, batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    """`in_memory` of an array with one more axis."""
    return in_memory(x), batched[0]


def launch(run: Callable, settings: Settings, *arrays: Any) -> Any:
    """`run` on arrays, the cache among them left where it is."""

    def place(x: Any) -> Any:
        return x._replace(k=in_memory(x.k), v=in_memory(x.v)) if isinstance(x, Keys) else x

    def placed(*arrays: Any) -> Any:
        return run(*jax.tree.map(place, arrays, is_leaf=lambda x: isinstance(x, Keys)))

    # The constraint is for programs that are compiled, so this is one even where nothing around it is.
    return run(*arrays) if settings.interpret else jax.jit(placed)(*arrays)


def same_block(x: Any) -> pl.BlockSpec | None:
    """All of an array, at every step."""
    return None if x is None else pl.BlockSpec(x.shape, lambda *_: (0,) * x.ndim)
