"""One device's part of ring attention: blocks of queries against blocks of keys, with a running softmax.

Runs inside a `shard_map` over the ring. Its gradient is written by hand: derived by jax, it would keep all keys it saw.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxformers.core.mask import Mask
from jaxformers.ops.dot import precision

HIDDEN = -1e30  # far below any score, yet a fully hidden row stays finite
BLOCK = 1024  # queries and keys in a product at most: scores take BLOCK * BLOCK floats for each head


class Places(NamedTuple):
    """What a mask must know of a device's queries and keys."""

    q_slots: jax.Array  # Int [T]
    k_slots: jax.Array  # Int [S]
    real: jax.Array | None = None  # Bool [B,S]: keys that are not padding
    q_segments: jax.Array | None = None  # Int [B,T]
    k_segments: jax.Array | None = None  # Int [B,S]
    prefix: jax.Array | None = None  # Int [B]


class Blocks(NamedTuple):
    """What is static: the ring's axis and size, and the rules of scores and masks."""

    axis: str
    size: int
    scale: float
    softcap: float | None
    left: int | None
    right: int | None
    pieces: int = 1  # that do not follow each other in a device's part of the sequence: no block may lie in two


class Keys(NamedTuple):
    """What goes round the ring, in blocks."""

    k: jax.Array  # [n,B,K,s,D]
    v: jax.Array  # [n,B,K,s,Dv]
    slots: jax.Array  # [n,s]
    real: jax.Array | None  # [n,B,s]
    segments: jax.Array | None  # [n,B,s]


class Queries(NamedTuple):
    """What stays, in blocks."""

    q: jax.Array  # [n,B,K,G,t,D]
    slots: jax.Array  # [n,t]
    segments: jax.Array | None  # [n,B,t]


def block_size(length: int) -> int:
    """The largest divisor of a length that is no larger than BLOCK."""
    return next(n for n in range(min(length, BLOCK), 0, -1) if length % n == 0)


def cut(x: jax.Array | None, axis: int, pieces: int) -> Any:
    """Blocks along an axis of a sequence that has so many pieces, the number of blocks first."""
    if x is None:
        return None
    size = block_size(x.shape[axis] // pieces)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def joined(x: jax.Array, axis: int) -> jax.Array:
    """Undo `cut`."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def cut_queries(x: jax.Array, kv_heads: int, pieces: int) -> jax.Array:
    """[B,T,H,D] -> [n,B,K,G,t,D]."""
    b, t, h, d = x.shape
    return cut(x.reshape(b, t, kv_heads, h // kv_heads, d).transpose(0, 2, 3, 1, 4), 3, pieces)


def join_queries(x: jax.Array) -> jax.Array:
    """Undo `cut_queries`."""
    x = joined(x, 3).transpose(0, 3, 1, 2, 4)
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def cut_all(q: jax.Array, k: jax.Array, v: jax.Array, places: Places, pieces: int) -> tuple[Queries, Keys]:
    """Everything in blocks. q [B,T,H,D], k and v [B,S,K,D]."""
    slots, segments = cut(places.q_slots, 0, pieces), cut(places.q_segments, 1, pieces)
    heads_first = (cut(x.transpose(0, 2, 1, 3), 2, pieces) for x in (k, v))
    others = ((places.k_slots, 0), (places.real, 1), (places.k_segments, 1))
    keys = Keys(*heads_first, *(cut(x, axis, pieces) for x, axis in others))
    return Queries(cut_queries(q, k.shape[2], pieces), slots, segments), keys


def product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in float32, whatever its operands are."""
    return jnp.einsum(subscripts, a, b, precision=precision(a, b), preferred_element_type=jnp.float32)


def at(tree: Any, n: jax.Array) -> Any:
    """Block n of everything."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, n, 0, False), tree)


def put(tree: Any, new: Any, n: jax.Array) -> Any:
    """Everything with block n replaced."""
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, n, 0), tree, new)


def scores_of(rules: Blocks, queries: Queries, keys: Keys, bias: Any, prefix: Any) -> tuple[jax.Array, jax.Array]:
    """Scores [B,K,G,t,s] of one block, and by how much they grow with q k (a softcap flattens them)."""
    scores = product("bkgtd,bksd->bkgts", queries.q, keys.k) * rules.scale
    slope = jnp.ones((), scores.dtype)
    if rules.softcap is not None:
        bent = jnp.tanh(scores / rules.softcap)
        scores, slope = bent * rules.softcap, 1.0 - bent * bent
    if bias is not None:
        scores = scores + bias
    mask = Mask(
        q_segments=queries.segments, k_segments=keys.segments, prefix=prefix, left=rules.left, right=rules.right
    )
    visible = mask.array(queries.slots, keys.slots)
    if keys.real is not None:
        real = keys.real[:, None, None]
        visible = real if visible is None else visible & real
    return scores if visible is None else jnp.where(visible[:, :, None], scores, HIDDEN), slope


def may_see(rules: Blocks, queries: Queries, keys: Keys, prefix: jax.Array | None) -> jax.Array | bool:
    """Whether any query of a block may see any key of another, going by slots alone."""
    seen: Any = True
    if rules.right is not None:
        seen = jnp.min(keys.slots) <= jnp.max(queries.slots) + rules.right
    if rules.left is not None:
        seen = seen & (jnp.max(keys.slots) >= jnp.min(queries.slots) - rules.left)
    return seen if prefix is None or seen is True else seen | (jnp.min(keys.slots) < jnp.max(prefix))


class Bias:
    """A bias [1|B,1|H,1|T,S] of a device's queries on the keys of all devices, read and summed block by block."""

    def __init__(self, rules: Blocks, queries: Queries, keys: Keys) -> None:
        self.heads, self.rows = queries.q.shape[2:4], queries.q.shape[4]
        self.columns, self.blocks = keys.slots.shape[1], keys.slots.shape[0]

    def start(self, bias: jax.Array, source: jax.Array, i: jax.Array, j: jax.Array) -> tuple:
        """Where block (i, j) begins."""
        row = i * self.rows if bias.shape[2] > 1 else 0
        return (0, 0, row, (source * self.blocks + j) * self.columns)

    def size(self, bias: jax.Array) -> tuple[int, ...]:
        """The shape of a block."""
        return (*bias.shape[:2], self.rows if bias.shape[2] > 1 else 1, self.columns)

    def read(self, bias: jax.Array | None, source: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array | None:
        """Block (i, j) against the keys of device `source`, [1|B,1|K,1|G,1|t,s]."""
        if bias is None:
            return None
        block = jax.lax.dynamic_slice(bias, self.start(bias, source, i, j), self.size(bias))
        heads = self.heads if bias.shape[1] > 1 else (1, 1)
        return block.reshape(block.shape[0], *heads, *block.shape[2:]).astype(jnp.float32)

    def add(self, bias: jax.Array, block: jax.Array, source: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        """The gradient of the bias with that of one block [B,K,G,t,s] added."""
        block = block.reshape(block.shape[0], -1, *block.shape[3:])
        size, start = self.size(bias), self.start(bias, source, i, j)
        axes = tuple(n for n in range(3) if size[n] == 1)
        block = jnp.sum(block, axis=axes, keepdims=True) + jax.lax.dynamic_slice(bias, start, size)
        return jax.lax.dynamic_update_slice(bias, block, start)


def around(rules: Blocks, keys: Any, visit: Callable, carry: Any) -> tuple[Any, Any]:
    """Call `visit(carry, keys, source)` for the keys of every device; returns the carry, and the keys back home."""
    here = jax.lax.axis_index(rules.axis)
    steps = [(n, (n + 1) % rules.size) for n in range(rules.size)]

    def turn(state: tuple, step: jax.Array) -> tuple[tuple, None]:
        keys, carry = state
        keys, carry = visit(keys, carry, (here - step) % rules.size)
        return (jax.tree.map(lambda x: jax.lax.ppermute(x, rules.axis, steps), keys), carry), None

    (keys, carry), _ = jax.lax.scan(turn, (keys, carry), jnp.arange(rules.size))
    return keys, carry


def over_pairs(rules: Blocks, queries: Queries, keys: Keys, prefix: Any, one: Callable, state: tuple) -> tuple:
    """state after `one(state of blocks i and j, i, j)` for each pair of blocks of which one may see the other.

    state: (by query block, by key block, whole): `one` gets and returns a block of the first two, and all of the third.
    """
    count = keys.slots.shape[0]

    def pair(n: jax.Array, state: tuple) -> tuple:
        i, j = n // count, n % count
        own, theirs, whole = state
        blocks = (at(own, i), at(theirs, j), whole)
        seen = may_see(rules, at(queries, i), at(keys, j), prefix)
        if seen is True:
            new = one(blocks, i, j)
        else:
            new = jax.lax.cond(seen, lambda given: one(given, i, j), lambda given: given, blocks)
        return put(own, new[0], i), put(theirs, new[1], j), new[2]

    return jax.lax.fori_loop(0, queries.slots.shape[0] * count, pair, state)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def blocked_attention(rules: Blocks, q, k, v, bias, places: Places) -> tuple[jax.Array, jax.Array]:
    """Outputs [B,T,H,Dv], and the logarithms [B,T,H] of what each softmax divides by, float32."""
    return forward(rules, q, k, v, bias, places)[0]


def forward(rules: Blocks, q, k, v, bias, places: Places) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    """The outputs, and what their gradient needs."""
    queries, keys = cut_all(q, k, v, places, rules.pieces)
    bounds = Bias(rules, queries, keys)
    shape = queries.q.shape[:-1]
    sums = jnp.zeros((*shape, v.shape[-1]), jnp.float32)
    state = (sums, jnp.full(shape, HIDDEN, jnp.float32), jnp.zeros(shape, jnp.float32))

    def visit(keys: Keys, state: tuple, source: jax.Array) -> tuple[Keys, tuple]:
        def one(given: tuple, i: jax.Array, j: jax.Array) -> tuple:
            (sums, top, total), _, _ = given
            near, far = at(queries, i), at(keys, j)
            scores, _ = scores_of(rules, near, far, bounds.read(bias, source, i, j), places.prefix)
            high = jnp.maximum(top, jnp.max(scores, axis=-1))
            powers, shrink = jnp.exp(scores - high[..., None]), jnp.exp(top - high)
            added = product("bkgts,bksd->bkgtd", powers.astype(far.v.dtype), far.v)
            return (sums * shrink[..., None] + added, high, total * shrink + powers.sum(-1)), (), ()

        return keys, over_pairs(rules, queries, keys, places.prefix, one, (state, (), ()))[0]

    _, (sums, top, total) = around(rules, keys, visit, state)
    total = jnp.where(total > 0, total, 1.0)  # a query that no block shows anything
    out = join_queries(sums / total[..., None]).astype(q.dtype)
    weight = join_queries((top + jnp.log(total))[..., None])[..., 0]
    return (out, weight), (q, k, v, bias, places, out, weight)


def backward(rules: Blocks, kept: tuple, given: tuple[jax.Array, jax.Array]) -> tuple:
    """Gradients; those of keys and values travel with them and end where they began."""
    q, k, v, bias, places, out, weight = kept
    g_out, g_weight = given
    queries, keys = cut_all(q, k, v, places, rules.pieces)
    bounds, heads = Bias(rules, queries, keys), k.shape[2]
    outer = cut_queries(g_out, heads, rules.pieces)
    own = jnp.sum(g_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1) - g_weight.astype(jnp.float32)
    rows = tuple(cut_queries(x[..., None], heads, rules.pieces)[..., 0] for x in (own, weight))

    def visit(state: tuple, carry: tuple, source: jax.Array) -> tuple[tuple, tuple]:
        keys, g_keys = state

        def one(given: tuple, i: jax.Array, j: jax.Array) -> tuple:
            g_q, (g_k, g_v), g_bias = given
            near, far, (own, weight), g = at(queries, i), at(keys, j), at(rows, i), at(outer, i)
            scores, slope = scores_of(rules, near, far, bounds.read(bias, source, i, j), places.prefix)
            powers = jnp.exp(scores - weight[..., None])
            g_v = g_v + product("bkgts,bkgtd->bksd", powers.astype(g.dtype), g)
            g_scores = powers * (product("bkgtd,bksd->bkgts", g, far.v) - own[..., None])
            if bias is not None:
                g_bias = bounds.add(g_bias, g_scores, source, i, j)
            g_scores = (g_scores * slope * rules.scale).astype(q.dtype)
            g_q = g_q + product("bkgts,bksd->bkgtd", g_scores, far.k)
            return g_q, (g_k + product("bkgts,bkgtd->bksd", g_scores, near.q), g_v), g_bias

        g_q, g_bias = carry
        g_q, g_keys, g_bias = over_pairs(rules, queries, keys, places.prefix, one, (g_q, g_keys, g_bias))
        return (keys, g_keys), (g_q, g_bias)

    g_keys = (jnp.zeros(keys.k.shape, jnp.float32), jnp.zeros(keys.v.shape, jnp.float32))
    g_bias = None if bias is None else jnp.zeros(bias.shape, jnp.float32)
    start = (jnp.zeros(queries.q.shape, jnp.float32), g_bias)
    (_, (g_k, g_v)), (g_q, g_bias) = around(rules, (keys, g_keys), visit, start)
    g_k, g_v = (joined(x, 2).transpose(0, 2, 1, 3) for x in (g_k, g_v))
    g_bias = None if bias is None else g_bias.astype(bias.dtype)
    return join_queries(g_q).astype(q.dtype), g_k.astype(k.dtype), g_v.astype(v.dtype), g_bias, None


blocked_attention.defvjp(forward, backward)
