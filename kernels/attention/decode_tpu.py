"""Attention of a few queries to a cache on TPUs, reading it as it is stored: dense, as a ring, in int8, in pages.

The grid walks over the blocks of each row's keys that some query sees, so what is not written, or behind a window, is
not read. Source: arXiv:1805.02867 (softmax with running statistics).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.attention.blocks import LANES
from jaxformers.kernels.attention.decode_blocks import (
    Columns,
    Keys,
    Running,
    Settings,
    Stored,
    add,
    begin,
    block_tokens,
    columns_fit,
    finish,
    kv_head,
    launch,
    merge,
    repeated,
    row_head,
    running,
    same_block,
    within,
)
from jaxformers.kernels.attention.tpu_blocks import both
from jaxformers.kernels.attention.visibility import IDLE, WHOLE, Rows, Visibility, blocks_seen, inner_block, rows, walk

PAGES = 8  # at most in a turn


def decode_attention(
    q: jax.Array,
    stored: Stored,
    visibility: Visibility,
    settings: Settings,
    *,
    bias: jax.Array | None = None,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """Return the output [B,T,H,Dv] of q [B,T,H,D].

    bias [1|B,1|H,1|T,1|S], sinks [H]. With pages, `visibility.slots` tells how many keys a row has, which may be fewer
    than there is room for. A query that sees nothing gives zeros. It cannot be differentiated.
    """
    b, t, h, _ = q.shape
    out = call(settings, lay_out(q, stored, visibility, settings, bias, sinks))
    return out[:, : t * h].reshape(b, t, h, -1)


class Work(NamedTuple):
    """Inputs laid out for the kernel, and the walk over the blocks of keys."""

    columns: Columns
    keys: tuple[Keys, ...]  # one for each block that a turn reads
    prefix: jax.Array | None  # Int32 [1|B]
    steps: jax.Array  # Int32, packed
    table: jax.Array  # Int32 [B * M]: pages; of no meaning without them
    turns: jax.Array  # Int32 []: of the row that needs most
    place: "Place"
    size: int  # packed queries in a turn


@dataclass(frozen=True)
class Place:
    """Which block of keys a turn of the grid (split, row, queries, turn) reads."""

    blocks: int  # of a row
    stride: int  # steps from one row of the batch to the next; 0 where all rows take the same walk
    parts: int  # blocks that a turn reads
    tokens: int  # in a block
    kv: int  # heads
    beyond: int | None  # rows of the last block that are in the cache; None where all are
    paged: bool

    @property
    def rows(self) -> tuple[int | None, int]:
        """Rows that are in the cache of the last block and of others."""
        return self.beyond, self.tokens * self.kv

    def step(self, part: int, split, row, _, n, steps, table, turns):
        """The packed step, and whether there is one."""
        at = (split * turns[0] + n) * self.parts + part
        return steps[row * self.stride + jnp.minimum(at, self.blocks - 1)], at < self.blocks

    def block(self, part: int, *grid):
        """The block, in the order of the row's tokens."""
        return inner_block(self.step(part, *grid)[0])

    def stored(self, part: int, *grid):
        """Where the cache has it: row and block, or page and 0."""
        row, table, block = grid[1], grid[5], self.block(part, *grid)
        return (table[row * self.blocks + block], 0) if self.paged else (row, block)


def lay_out(q, stored: Stored, visibility: Visibility, settings: Settings, bias, sinks) -> Work:
    """Pack heads, list the blocks, spread what belongs to tokens over the kv heads."""
    t, h = q.shape[1:3]
    kv, paged = stored.k.shape[2], stored.table is not None
    length = visibility.slots.shape[0] if paged else stored.k.shape[1]
    size, count = columns_fit(t * h)
    width = token_bytes(stored) // kv
    tokens = stored.k.shape[1] if paged else block_tokens(length, kv, width, size, settings.block_bytes)
    blocks = -(-length // tokens)
    rules = rows(visibility, (t, length), (t, blocks * tokens))
    steps, longest = walk(*blocks_seen(rules, (1, blocks), (t, tokens)))
    # Pages are small: several at a time keep a turn's fixed cost beside the reading small too.
    parts = min(max(settings.block_bytes // (tokens * kv * width), 1), PAGES, blocks) if paged else 1
    stride = 0 if steps.shape[0] == blocks else blocks
    columns = pack_columns(q, rules, kv, count, sinks)
    if bias is not None:
        columns, bias = spread_bias(columns, bias, (h, kv), (length, blocks, tokens))
    return Work(
        columns,
        (pack_keys(stored, rules, blocks, tokens, bias),) * parts,
        rules.prefix,
        steps,
        jnp.clip(stored.table, 0, stored.k.shape[0] - 1).astype(jnp.int32).reshape(-1) if paged else steps[:1],
        -(-longest // parts),
        Place(blocks, stride, parts, tokens, kv, None if paged else edge(length, tokens, kv), paged),
        size,
    )


def token_bytes(stored: Stored) -> int:
    """Bytes in fast memory of a token's keys, or of its values if those are wider."""
    _, _, kv, dim = stored.k.shape
    wide = -(-max(dim, stored.v.shape[3]) // LANES) * LANES
    return kv * wide * stored.k.dtype.itemsize


def edge(length: int, tokens: int, kv: int) -> int | None:
    """Rows of the last block that are in the cache; None where all are."""
    rest = length % tokens
    return rest * kv if rest else None


def pack_columns(q: jax.Array, r: Rows, kv: int, count: int, sinks: jax.Array | None) -> Columns:
    """Queries [B,T,H,D] as [B,count,D], with what belongs to each."""
    b, t, h, d = q.shape

    def filled(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, count - t * h), (0, 0)), mode="edge")

    def per_query(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else filled(jnp.repeat(x[:, 0], h, axis=1)[:, :, None])

    sink = None if sinks is None else filled(jnp.tile(sinks.astype(jnp.float32), t)[None, :, None])
    return Columns(
        filled(q.reshape(b, t * h, d)),
        kv_head(count, h, kv),
        per_query(r.low),
        per_query(r.high),
        per_query(None if r.k_segments is None else r.q_segments),
        sink,
    )


def pack_keys(stored: Stored, r: Rows, blocks: int, tokens: int, bias: jax.Array | None) -> Keys:
    """The cache with tokens and kv heads as one axis, which moves nothing."""
    kv = stored.k.shape[2]

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], x.shape[1] * kv, x.shape[3])

    def scale(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else x.reshape(x.shape[0], 1, -1)

    bounded = r.low is not None or r.high is not None
    return Keys(
        flat(stored.k),
        flat(stored.v),
        scale(stored.k_scale),
        scale(stored.v_scale),
        row_head(tokens, kv),
        repeated(r.slots, kv, blocks) if bounded else None,
        repeated(None if r.q_segments is None else r.k_segments, kv, blocks),
        bias,
    )


def spread_bias(columns: Columns, bias: jax.Array, heads: tuple[int, int], keys: tuple[int, int, int]):
    """The columns, told which bias is theirs, and biases [1|B,blocks,T * heads of a group,R] of a bias [.,.,.,S]."""
    (h, kv), (length, blocks, tokens) = heads, keys
    groups, count = h // kv, columns.q.shape[1]
    bias = jnp.broadcast_to(bias.astype(jnp.float32), (bias.shape[0], h, bias.shape[2], length))
    many, _, t, _ = bias.shape
    bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, blocks * tokens - length)))
    bias = bias.reshape(many, kv, groups, t, blocks, tokens).transpose(0, 4, 3, 2, 5, 1)
    bias = bias.reshape(many, blocks, t * groups, tokens * kv)
    if t * groups == 1:
        return columns, bias
    at = jnp.arange(count)
    own = jnp.minimum(at // h, t - 1) * groups + at % groups
    return columns._replace(pick=jax.nn.one_hot(own, t * groups, dtype=jnp.float32)[None]), bias


def call(settings: Settings, work: Work) -> jax.Array:
    """Run the kernel: [B,N,Dv]."""
    q, dv = work.columns.q, work.keys[0].v.shape[-1]
    b, count, _ = q.shape
    splits, size = settings.splits, work.size
    shape = (splits, b, count, dv)
    out_shape = [jax.ShapeDtypeStruct(shape, q.dtype if splits == 1 else jnp.float32)]
    if splits > 1:
        out_shape.append(jax.ShapeDtypeStruct((*shape[:3], 2), jnp.float32))
    turns = -(-work.turns // splits)
    run = pl.pallas_call(
        partial(kernel, settings, work.place),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(splits, b, count // size, turns),
            in_specs=[
                columns_spec(work.columns, size),
                tuple(keys_spec(work.place, part, x) for part, x in enumerate(work.keys)),
                None if work.prefix is None else pl.BlockSpec(memory_space=pltpu.SMEM),
            ],
            out_specs=[
                pl.BlockSpec((None, None, size, x.shape[-1]), lambda s, b, i, n, *_: (s, b, i, 0)) for x in out_shape
            ],
            scratch_shapes=running(size, dv),
        ),
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"), vmem_limit_bytes=settings.vmem
        ),
        interpret=settings.interpret,
        name="jaxformers_decode",
    )
    out = launch(run, settings, work.steps, work.table, turns[None], work.columns, work.keys, work.prefix)
    return out[0][0] if splits == 1 else merge(*out).astype(q.dtype)


def columns_spec(x: Columns, size: int) -> Columns:
    """The packed queries of a step."""

    def one(array: Any) -> pl.BlockSpec | None:
        if array is None:
            return None
        many = array.shape[0] > 1
        return pl.BlockSpec((None, size, array.shape[2]), lambda s, b, i, n, *_: (b if many else 0, i, 0))

    return Columns(*(one(array) for array in x))


def keys_spec(place: Place, part: int, x: Keys) -> Keys:
    """The block of keys that a step reads as its `part`, and what belongs to it."""
    size = x.k.shape[1] if place.paged else place.tokens * place.kv

    def stored(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((None, size, array.shape[2]), lambda *grid: (*place.stored(part, *grid), 0))

    def scale(array: Any) -> pl.BlockSpec | None:
        def at(*grid):
            row, block = place.stored(part, *grid)
            return row, 0, block

        return None if array is None else pl.BlockSpec((None, 1, size), at)

    def row(array: Any) -> pl.BlockSpec | None:
        if array is None:
            return None
        many = array.shape[0] > 1
        at = lambda *grid: (grid[1] if many else 0, place.block(part, *grid), 0, 0)  # noqa: E731
        return pl.BlockSpec((None, None, *array.shape[2:]), at)

    return Keys(
        stored(x.k),
        stored(x.v),
        scale(x.k_scale),
        scale(x.v_scale),
        same_block(x.head),
        row(x.slots),
        row(x.segments),
        row(x.bias),
    )


def kernel(
    settings: Settings, place: Place, steps, table, turns, columns: Columns, keys, prefix, out, *scratch
) -> None:
    """One turn: the blocks of keys that it reads, for one row's queries."""
    share, *scratch = scratch if settings.splits > 1 else (None, *scratch)
    state = Running(*scratch)
    split, row, _, n = grid = tuple(pl.program_id(axis) for axis in range(4))

    @pl.when(n == 0)
    def _() -> None:
        sink = None if columns.sink is None else columns.sink[...]
        begin(state, sink)
        if sink is not None and settings.splits > 1:
            pl.when(split > 0)(lambda: begin(state, None))  # the first split has seen it

    for part, block in enumerate(keys):
        step, there = place.step(part, *grid, steps, table, turns)
        there = there & (step & IDLE == 0)
        see = partial(visible, columns, block, prefix, row)
        end = None if place.beyond is None else jnp.where(inner_block(step) == place.blocks - 1, *place.rows)
        pl.when(there & (step & WHOLE != 0))(partial(add, settings, state, columns, block, None, None))
        pl.when(there & (step & WHOLE == 0))(partial(add, settings, state, columns, block, see, end))

    @pl.when(n == pl.num_programs(3) - 1)
    def _() -> None:
        finish(state, out, share)


def visible(columns: Columns, keys: Keys, prefix: Any, row: jax.Array, seen: Any) -> jax.Array | None:
    """What is seen of `seen`, by the rules on slots and segments."""
    if keys.slots is not None:
        slots = keys.slots[...]
        inside = within(None, slots, columns)
        if prefix is not None:
            inside = inside | (slots < prefix[row if prefix.shape[0] > 1 else 0])
        seen = both(seen, inside)
    if keys.segments is not None:
        seen = both(seen, keys.segments[...] == columns.segment[...])
    return seen
