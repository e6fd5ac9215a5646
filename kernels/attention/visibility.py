"""Which keys a query may see, and which blocks of scores a kernel must compute.

Rules stay symbolic: a few integers for each query and each key. From their smallest and largest values in a block
follows whether all of a block's scores are visible, none, or some; a kernel walks over a list of the blocks that are
needed, so that a hidden block costs neither arithmetic nor memory traffic.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NOBODY = jnp.iinfo(jnp.int32).min  # the segment of keys that no query sees
LARGEST = jnp.iinfo(jnp.int32).max

# A step of a kernel's walk in one integer: outer block (13 bits), inner block (14 bits), four flags.
WHOLE, FIRST, LAST, IDLE = 1, 2, 4, 8
FLAG_BITS, INNER_BITS, OUTER_BITS = 4, 14, 13


class Visibility(NamedTuple):
    """Key s is visible to query t if `low[t] <= slots[s] <= high[t]` or `slots[s] < prefix`, if it is one of `keys`,
    and if the segments are equal. A rule that is None hides nothing; a prefix needs `low` or `high`.
    """

    slots: jax.Array | None = None  # Int32 [S]: place of each key in the sequence
    low: jax.Array | None = None  # Int32 [T]: first slot that a query sees
    high: jax.Array | None = None  # Int32 [T]: last slot that a query sees
    prefix: jax.Array | None = None  # Int32 [1|B]: keys before it are visible to every query
    keys: jax.Array | None = None  # Bool [1|B,S]: real keys
    q_segments: jax.Array | None = None  # Int32 [1|B,T]
    k_segments: jax.Array | None = None  # Int32 [1|B,S]


class Rows(NamedTuple):
    """The rules as kernels read them: rows of integers whose lengths are multiples of the blocks'."""

    slots: jax.Array | None  # Int32 [1,1,S]
    low: jax.Array | None  # Int32 [1,1,T]
    high: jax.Array | None  # Int32 [1,1,T]
    q_segments: jax.Array | None  # Int32 [1|B,1,T]
    k_segments: jax.Array | None  # Int32 [1|B,1,S], NOBODY for keys that are not real
    prefix: jax.Array | None  # Int32 [1|B]


def rows(visibility: Visibility, lengths: tuple[int, int], padded: tuple[int, int]) -> Rows:
    """Rules of `lengths` (queries, keys), made longer: new keys are hidden, new queries see what the last one sees."""
    v, (queries, keys), (more_q, more_k) = visibility, lengths, (padded[0] - lengths[0], padded[1] - lengths[1])
    real = jnp.ones((1, keys), bool) if v.keys is None and more_k else v.keys
    q_segments, k_segments = v.q_segments, v.k_segments
    if real is not None:
        real = jnp.pad(real, ((0, 0), (0, more_k)))
        k_segments = jnp.zeros((1, keys), jnp.int32) if k_segments is None else k_segments
        k_segments = jnp.where(real, longer(k_segments, more_k), NOBODY)
        q_segments = jnp.zeros((1, queries), jnp.int32) if q_segments is None else q_segments
    bounded = v.low is not None or v.high is not None
    return Rows(
        slots=None if not bounded or v.slots is None else longer(v.slots[None], more_k)[None],
        low=None if v.low is None else longer(v.low[None], more_q)[None],
        high=None if v.high is None else longer(v.high[None], more_q)[None],
        q_segments=None if q_segments is None else longer(q_segments, more_q)[:, None],
        k_segments=None if k_segments is None else k_segments[:, None],
        prefix=None if v.prefix is None or not bounded else v.prefix.astype(jnp.int32),
    )


def longer(x: jax.Array, more: int) -> jax.Array:
    """[B,T] -> [B,T + more] in int32, the last entry repeated: smallest and largest values stay what they are."""
    return jnp.pad(x.astype(jnp.int32), ((0, 0), (0, more)), mode="edge")


def block_range(row: jax.Array, size: int, real: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest entry of each block [1|B,blocks], of those that are `real`."""
    blocks = row.reshape(row.shape[0], -1, size)
    if real is None:
        return blocks.min(-1), blocks.max(-1)
    real = real.reshape(blocks.shape)
    return jnp.where(real, blocks, LARGEST).min(-1), jnp.where(real, blocks, NOBODY).max(-1)


def blocks_seen(r: Rows, counts: tuple[int, int], sizes: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Bool [1|B,q blocks,k blocks] twice: blocks of which something may be visible, and blocks of which all is."""
    some = every = jnp.ones((1, *counts), bool)

    def down(x: jax.Array) -> jax.Array:
        return x[:, :, None]

    if r.slots is not None:
        first, last = (x[:, None] for x in block_range(r.slots, sizes[1]))
        if r.low is not None:
            smallest, largest = (down(x) for x in block_range(r.low, sizes[0]))
            some, every = some & (last >= smallest), every & (first >= largest)
        if r.high is not None:
            smallest, largest = (down(x) for x in block_range(r.high, sizes[0]))
            some, every = some & (first <= largest), every & (last <= smallest)
        if r.prefix is not None:
            before = r.prefix[:, None, None]
            some, every = some | (first < before), every | (last < before)
    if r.k_segments is not None and r.q_segments is not None:
        real = r.k_segments != NOBODY
        q_low, q_high = (down(x) for x in block_range(r.q_segments, sizes[0]))
        k_low, k_high = (x[:, None] for x in block_range(r.k_segments, sizes[1], real))
        some = some & (k_high >= q_low) & (k_low <= q_high)
        same = (q_low == q_high) & (k_low == q_low) & (k_high == q_low)
        every = every & same & real.reshape(real.shape[0], 1, -1, sizes[1]).all(-1)
    return some, every & some


class Walk(NamedTuple):
    """The blocks a kernel visits, in order: for each outer block, the inner ones it needs, and at least one."""

    steps: jax.Array  # Int32 [1|B * blocks in all], packed
    longest: jax.Array  # Int32 []: steps of the row of the batch that needs most


def walk(some: jax.Array, every: jax.Array) -> Walk:
    """List what [1|B,outer,inner] asks for; steps after a row's last one are idle and stay where they are."""
    rows, outer, inner = some.shape
    wanted = some | (~some.any(-1, keepdims=True) & (jnp.arange(inner) == 0))
    places = (jnp.arange(outer)[:, None] << (FLAG_BITS + INNER_BITS)) | (jnp.arange(inner) << FLAG_BITS)
    packed = (places | jnp.where(every & some, WHOLE, 0)).astype(jnp.int32).reshape(rows, -1)
    wanted = wanted.reshape(rows, -1)
    # Packed steps are in the order of the walk already; a sort brings those that are wanted to the front.
    steps = jnp.sort(jnp.where(wanted, packed, LARGEST), axis=-1)
    end = jnp.max(jnp.where(wanted, packed, 0), axis=-1, keepdims=True)
    block = outer_block(steps)  # of no block: larger than any
    turns = (block[:, 1:] != block[:, :-1]).astype(jnp.int32)
    once = jnp.ones((rows, 1), jnp.int32)
    flags = FIRST * jnp.concatenate([once, turns], 1) + LAST * jnp.concatenate([turns, once], 1)
    steps = jnp.where(steps == LARGEST, end & ~WHOLE | IDLE, steps | flags)
    return Walk(steps.reshape(-1), wanted.sum(-1).max().astype(jnp.int32))


def outer_block(step: jax.Array) -> jax.Array:
    """The outer block of a packed step."""
    return step >> (FLAG_BITS + INNER_BITS)


def inner_block(step: jax.Array) -> jax.Array:
    """The inner block of a packed step."""
    return (step >> FLAG_BITS) & (2**INNER_BITS - 1)


def visible_array(v: Visibility, queries: slice = slice(None)) -> jax.Array | None:
    """Bool [1|B,queries,S], None when everything is visible: the rules written out."""
    seen = None
    if v.low is not None:
        seen = (v.slots >= v.low[queries, None])[None]
    if v.high is not None:
        below = (v.slots <= v.high[queries, None])[None]
        seen = below if seen is None else seen & below
    if v.prefix is not None and seen is not None:
        seen = seen | (v.slots < v.prefix[:, None])[:, None]
    if v.q_segments is not None and v.k_segments is not None:
        same = v.q_segments[:, queries, None] == v.k_segments[:, None]
        seen = same if seen is None else seen & same
    if v.keys is not None:
        seen = v.keys[:, None] if seen is None else seen & v.keys[:, None]
    return seen
