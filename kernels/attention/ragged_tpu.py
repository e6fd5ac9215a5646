"""Attention of several rows' new tokens, laid end to end, to caches in pages on TPUs: prompts and single tokens mixed.

The grid walks over the pages that each block of tokens needs, row after row; a block may hold tokens of many rows. The
walk follows from how long the rows are, on the device, so one program serves every mix. Source: arXiv:2309.06180.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.attention.decode_blocks import (
    COLUMNS,
    Columns,
    Keys,
    Running,
    Settings,
    add,
    begin,
    finish,
    kv_head,
    launch,
    row_head,
    running,
    same_block,
    within,
)
from jaxformers.kernels.attention.tpu_blocks import both
from jaxformers.kernels.attention.visibility import (
    FIRST,
    FLAG_BITS,
    INNER_BITS,
    LAST,
    NOBODY,
    inner_block,
    outer_block,
)

SUBLANES = 16  # packed queries in a step are a multiple of it


class Ragged(NamedTuple):
    """Rows whose new tokens lie end to end. Tokens from `starts[-1]` on are padding, see nothing and give zeros."""

    k: jax.Array  # [P,size,K,D], the new tokens' own included
    v: jax.Array  # [P,size,K,Dv]
    table: jax.Array  # Int32 [R,M]: the page that holds a row's tokens from m * size on
    starts: jax.Array  # Int32 [R+1]: where each row's new tokens begin
    lengths: jax.Array  # Int32 [R]: tokens that each row had before
    left: int | None = None  # tokens that a query sees before its own; None: all


class Walk(NamedTuple):
    """The pages to visit, in order: for each block of tokens those of each row in it."""

    steps: jax.Array  # Int32, packed: interval, page of the row, flags
    block: jax.Array  # Int32 [intervals]: the block of tokens
    row: jax.Array  # Int32 [intervals]
    total: jax.Array  # Int32 []: steps


def ragged_attention(
    q: jax.Array, pages: Ragged, settings: Settings, *, sinks: jax.Array | None = None, tokens: int | None = None
) -> jax.Array:
    """Return the output [T,H,Dv] of q [T,H,D]: each token sees its row's up to itself. sinks [H].

    tokens: in a block; chosen if None. It cannot be differentiated.
    """
    t, h, _ = q.shape
    size = tokens or block_of_tokens(t, h, pages.starts.shape[0] - 1)
    more = -t % size
    columns = pack_columns(q, pages, more, sinks)
    walk = plan_walk(pages, size, (t + more) // size)
    out = call(settings, pages, columns, walk, size * h)
    return out.reshape(t + more, h, -1)[:t]


def block_of_tokens(tokens: int, heads: int, rows: int) -> int:
    """Tokens that read a page together: a row's on average, which for single tokens is one."""
    least = 1
    while least * heads % SUBLANES:
        least *= 2
    size = least
    while 2 * size * heads <= COLUMNS and size * rows < tokens:
        size *= 2
    return size


def rows_of(starts: jax.Array, tokens: int) -> jax.Array:
    """The row of each token, Int32 [tokens]; padding counts with the last row."""
    found = jnp.searchsorted(starts, jnp.arange(tokens), side="right").astype(jnp.int32) - 1
    return jnp.clip(found, 0, starts.shape[0] - 2)


def pack_columns(q: jax.Array, pages: Ragged, more: int, sinks: jax.Array | None) -> Columns:
    """Tokens and heads as one axis, which moves nothing, with what belongs to each."""
    t, h, d = q.shape
    at = jnp.arange(t + more, dtype=jnp.int32)
    row = rows_of(pages.starts, t + more)
    place = pages.lengths[row] + at - pages.starts[row]
    real = at < pages.starts[-1]

    def per_token(x: jax.Array) -> jax.Array:
        return jnp.repeat(x.astype(jnp.int32), h)[None, :, None]

    sink = None if sinks is None else jnp.tile(sinks.astype(jnp.float32), t + more)[None, :, None]
    return Columns(
        jnp.pad(q.reshape(1, t * h, d), ((0, 0), (0, more * h), (0, 0))),
        kv_head((t + more) * h, h, pages.k.shape[2]),
        None if pages.left is None else per_token(place - pages.left),
        per_token(place),
        per_token(jnp.where(real, row, NOBODY)),
        sink,
    )


def plan_walk(pages: Ragged, size: int, blocks: int) -> Walk:
    """Cut the tokens where a block or a row begins; list the pages that each interval needs, and at least one."""
    starts, lengths = pages.starts.astype(jnp.int32), pages.lengths.astype(jnp.int32)
    page, most, end = pages.k.shape[1], pages.table.shape[1], blocks * size
    first = jnp.sort(jnp.concatenate([jnp.arange(blocks, dtype=jnp.int32) * size, starts[:-1]]))
    last = jnp.concatenate([first[1:], jnp.full((1,), end, jnp.int32)])
    row = jnp.clip(jnp.searchsorted(starts, first, side="right").astype(jnp.int32) - 1, 0, starts.shape[0] - 2)
    place = lengths[row] + first - starts[row]  # in its row
    real = first < starts[-1]
    low = 0 if pages.left is None else jnp.maximum(place - pages.left, 0) // page
    high = (place + jnp.minimum(last, starts[-1]) - first - 1) // page
    low, high = (jnp.clip(jnp.where(real, x, 0), 0, most - 1) for x in (low, high))
    counts = jnp.where(last > first, high - low + 1, 0)
    ends = jnp.cumsum(counts)
    n = jnp.arange(first.shape[0] * most, dtype=jnp.int32)
    at = jnp.minimum(jnp.searchsorted(ends, n, side="right").astype(jnp.int32), first.shape[0] - 1)
    inner = jnp.clip(low[at] + n - (ends - counts)[at], 0, most - 1)
    block = jnp.minimum(first // size, blocks - 1)
    turns = (block[at][1:] != block[at][:-1]).astype(jnp.int32)
    once = jnp.ones(1, jnp.int32)
    flags = FIRST * jnp.concatenate([once, turns]) + LAST * jnp.concatenate([turns, once])
    flags = flags | jnp.where(n == ends[-1] - 1, LAST, 0)
    return Walk((at << (FLAG_BITS + INNER_BITS)) | (inner << FLAG_BITS) | flags, block, row, ends[-1])


def call(settings: Settings, pages: Ragged, columns: Columns, walk: Walk, size: int) -> jax.Array:
    """Run the kernel: [tokens * heads, Dv]."""
    count, page, kv, d = pages.k.shape
    dv, most = pages.v.shape[-1], pages.table.shape[1]
    keys = Keys(
        pages.k.reshape(count, page * kv, d),
        pages.v.reshape(count, page * kv, dv),
        head=row_head(page, kv),
        slots=jnp.repeat(jnp.arange(page, dtype=jnp.int32), kv)[None],
    )

    def of_block(x: Any) -> pl.BlockSpec | None:
        at = lambda n, steps, block, *_: (0, block[outer_block(steps[n])], 0)  # noqa: E731
        return None if x is None else pl.BlockSpec((None, size, x.shape[2]), at)

    def of_page(x: Any) -> pl.BlockSpec:
        def at(n, steps, block, row, table):
            return table[row[outer_block(steps[n])] * most + inner_block(steps[n])], 0, 0

        return pl.BlockSpec((None, *x.shape[1:]), at)

    run = pl.pallas_call(
        partial(kernel, settings, page),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(walk.total,),
            in_specs=[
                Columns(*(of_block(x) for x in columns)),
                Keys(of_page(keys.k), of_page(keys.v), head=same_block(keys.head), slots=same_block(keys.slots)),
            ],
            out_specs=of_block(jax.ShapeDtypeStruct((1, columns.q.shape[1], dv), columns.q.dtype)),
            scratch_shapes=running(size, dv),
        ),
        out_shape=jax.ShapeDtypeStruct((1, columns.q.shape[1], dv), columns.q.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",), vmem_limit_bytes=settings.vmem),
        interpret=settings.interpret,
        name="jaxformers_ragged",
    )
    table = jnp.clip(pages.table, 0, count - 1).astype(jnp.int32).reshape(-1)
    return launch(run, settings, walk.steps, walk.block, walk.row, table, columns, keys)[0]


def kernel(
    settings: Settings, page: int, steps, block, row, table, columns: Columns, keys: Keys, out, *scratch
) -> None:
    """One page of one row, for a block of tokens."""
    state, step = Running(*scratch), steps[pl.program_id(0)]
    own, slots = row[outer_block(step)], keys.slots[...] + inner_block(step) * page

    def visible(seen: jax.Array | None) -> jax.Array:
        return within(both(seen, columns.segment[...] == own), slots, columns)

    pl.when(step & FIRST != 0)(lambda: begin(state, None if columns.sink is None else columns.sink[...]))
    add(settings, state, columns, keys, visible, None)
    pl.when(step & LAST != 0)(lambda: finish(state, out))
