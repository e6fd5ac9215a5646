"""Attention by XLA without all scores: blocks of queries meet blocks of keys, but for pairs that the mask hides.

A turn of the ring is computed so, and long sequences on one device (`ops/blocked_attention.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxformers.core.mask import Mask
from jaxformers.ops.dot import precision
from jaxformers.ops.ring_parts import HIDDEN, Places, Rules


class Queries(NamedTuple):
    """What belongs to queries, in blocks."""

    q: jax.Array  # [n,B,K,G,t,D]
    slots: jax.Array  # [n,t]
    segments: jax.Array | None  # [n,B,t]


class Keys(NamedTuple):
    """What belongs to keys, in blocks."""

    k: jax.Array  # [n,B,K,s,D]
    v: jax.Array  # [n,B,K,s,Dv]
    slots: jax.Array  # [n,s]
    real: jax.Array | None  # [n,B,s]
    segments: jax.Array | None  # [n,B,s]


def cut(x: jax.Array | None, axis: int, rules: Rules) -> Any:
    """Blocks along an axis of a sequence, their number first; none lies in two of its pieces."""
    if x is None:
        return None
    piece = x.shape[axis] // rules.pieces
    size = next(n for n in range(min(piece, rules.block or piece), 0, -1) if piece % n == 0)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def joined(x: jax.Array, axis: int) -> jax.Array:
    """Undo `cut`."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def by_group(x: jax.Array, kv_heads: int, rules: Rules) -> jax.Array:
    """[B,H,T,...] -> [n,B,K,G,t,...]."""
    return cut(x.reshape(x.shape[0], kv_heads, -1, *x.shape[2:]), 3, rules)


def ungrouped(x: jax.Array) -> jax.Array:
    """Undo `by_group`."""
    x = joined(x, 3)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def cut_all(rules: Rules, q: jax.Array, k: jax.Array, v: jax.Array, places: Places) -> tuple[Queries, Keys]:
    """Everything in blocks."""
    queries = Queries(by_group(q, k.shape[1], rules), cut(places.q_slots, 0, rules), cut(places.q_segments, 1, rules))
    known = (cut(places.k_slots, 0, rules), cut(places.real, 1, rules), cut(places.k_segments, 1, rules))
    return queries, Keys(cut(k, 2, rules), cut(v, 2, rules), *known)


def product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in float32, whatever its operands are."""
    return jnp.einsum(subscripts, a, b, precision=precision(a, b), preferred_element_type=jnp.float32)


def at(tree: Any, n: jax.Array) -> Any:
    """Block n of everything."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, n, 0, False), tree)


def put(tree: Any, new: Any, n: jax.Array) -> Any:
    """Everything with block n replaced."""
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, n, 0), tree, new)


def block_of(bias: jax.Array | None, i: jax.Array, j: jax.Array, near: Queries, far: Keys) -> Any:
    """Block (i, j) of a bias [1|B,1|H,1|T,S], as [1|B,1|K,1|G,1|t,s]."""
    if bias is None:
        return None
    start, size = bias_window(bias, i, j, near, far)
    block = jax.lax.dynamic_slice(bias, start, size)
    heads = near.q.shape[1:3] if bias.shape[1] > 1 else (1, 1)
    return block.reshape(size[0], *heads, *size[2:]).astype(jnp.float32)


def bias_window(bias: jax.Array, i: jax.Array, j: jax.Array, near: Queries, far: Keys) -> tuple[tuple, tuple]:
    """Where block (i, j) of a bias begins, and its shape."""
    rows, count = (near.q.shape[3], far.k.shape[2])
    rows = rows if bias.shape[2] > 1 else 1
    return (0, 0, i * rows if rows > 1 else 0, j * count), (*bias.shape[:2], rows, count)


def scores_of(rules: Rules, near: Queries, far: Keys, bias: Any, prefix: Any) -> tuple[jax.Array, jax.Array]:
    """Scores [B,K,G,t,s] of one block, and by how much they grow with q k (a softcap flattens them)."""
    scores = product("bkgtd,bksd->bkgts", near.q, far.k) * rules.scale
    slope = jnp.ones((), scores.dtype)
    if rules.softcap is not None:
        bent = jnp.tanh(scores / rules.softcap)
        scores, slope = bent * rules.softcap, 1.0 - bent * bent
    if bias is not None:
        scores = scores + bias
    segments = {"q_segments": near.segments, "k_segments": far.segments}
    mask = Mask(**segments, prefix=prefix, left=rules.left, right=rules.right)
    visible = mask.array(near.slots, far.slots)
    if far.real is not None:
        real = far.real[:, None, None]
        visible = real if visible is None else visible & real
    return scores if visible is None else jnp.where(visible[:, :, None], scores, HIDDEN), slope


def may_see(rules: Rules, near: Queries, far: Keys, prefix: jax.Array | None) -> jax.Array | bool:
    """Whether any query of a block may see any key of another, going by slots alone."""
    seen: Any = True
    if rules.right is not None:
        seen = jnp.min(far.slots) <= jnp.max(near.slots) + rules.right
    if rules.left is not None:
        seen = seen & (jnp.max(far.slots) >= jnp.min(near.slots) - rules.left)
    return seen if prefix is None or seen is True else seen | (jnp.min(far.slots) < jnp.max(prefix))


def over_pairs(rules: Rules, queries: Queries, keys: Keys, prefix: Any, one: Callable, state: tuple) -> tuple:
    """state after `one(state of blocks i and j, near, far, i, j)` for each pair of which one may see the other.

    state: (by query block, by key block, whole): `one` gets and returns a block of the first two, and all of the third.
    """
    count = keys.slots.shape[0]

    def pair(n: jax.Array, state: tuple) -> tuple:
        i, j = n // count, n % count
        near, far, (own, theirs, whole) = at(queries, i), at(keys, j), state
        blocks = (at(own, i), at(theirs, j), whole)
        seen = may_see(rules, near, far, prefix)
        if seen is True:
            new = one(blocks, near, far, i, j)
        else:
            new = jax.lax.cond(seen, lambda given: one(given, near, far, i, j), lambda given: given, blocks)
        return put(own, new[0], i), put(theirs, new[1], j), new[2]

    return jax.lax.fori_loop(0, queries.slots.shape[0] * count, pair, state)


def attend(rules: Rules, q, k, v, bias, places: Places) -> tuple[jax.Array, jax.Array]:
    """Outputs and the logs of what they were divided by; see `Engine`."""
    queries, keys = cut_all(rules, q, k, v, places)
    shape = queries.q.shape[:-1]
    sums = jnp.zeros((*shape, v.shape[-1]), jnp.float32)
    state = (sums, jnp.full(shape, HIDDEN, jnp.float32), jnp.zeros(shape, jnp.float32))

    def one(given: tuple, near: Queries, far: Keys, i: jax.Array, j: jax.Array) -> tuple:
        sums, top, total = given[0]
        scores, _ = scores_of(rules, near, far, block_of(bias, i, j, near, far), places.prefix)
        high = jnp.maximum(top, jnp.max(scores, axis=-1))
        powers, shrink = jnp.exp(scores - high[..., None]), jnp.exp(top - high)
        added = product("bkgts,bksd->bkgtd", powers.astype(far.v.dtype), far.v)
        return (sums * shrink[..., None] + added, high, total * shrink + powers.sum(-1)), (), ()

    (sums, top, total), _, _ = over_pairs(rules, queries, keys, places.prefix, one, (state, (), ()))
    total = jnp.where(total > 0, total, 1.0)  # a query that no block shows anything
    return ungrouped(sums / total[..., None]), ungrouped(top + jnp.log(total))


def gradients(rules: Rules, q, k, v, bias, places: Places, grad, lse, own) -> tuple:
    """Gradients of q, k, v and bias, float32; see `Engine`."""
    queries, keys = cut_all(rules, q, k, v, places)
    rows = tuple(by_group(x, k.shape[1], rules) for x in (grad, lse, own))

    def one(given: tuple, near: Queries, far: Keys, i: jax.Array, j: jax.Array) -> tuple:
        g_q, (g_k, g_v), g_bias = given
        g, weight, mean = at(rows, i)
        scores, slope = scores_of(rules, near, far, block_of(bias, i, j, near, far), places.prefix)
        powers = jnp.exp(scores - weight[..., None])
        g_v = g_v + product("bkgts,bkgtd->bksd", powers.astype(g.dtype), g)
        g_scores = powers * (product("bkgtd,bksd->bkgts", g, far.v) - mean[..., None])
        if bias is not None:
            start, size = bias_window(bias, i, j, near, far)
            block = g_scores.reshape(g_scores.shape[0], -1, *g_scores.shape[3:])
            block = block.sum(tuple(n for n in range(3) if size[n] == 1), keepdims=True)
            g_bias = jax.lax.dynamic_update_slice(g_bias, block + jax.lax.dynamic_slice(g_bias, start, size), start)
        g_scores = (g_scores * slope * rules.scale).astype(q.dtype)
        g_q = g_q + product("bkgts,bksd->bkgtd", g_scores, far.k)
        return g_q, (g_k + product("bkgts,bkgtd->bksd", g_scores, near.q), g_v), g_bias

    def zeros(x: Any) -> Any:
        return None if x is None else jnp.zeros(x.shape, jnp.float32)

    state = (zeros(queries.q), (zeros(keys.k), zeros(keys.v)), zeros(bias))
    g_q, (g_k, g_v), g_bias = over_pairs(rules, queries, keys, places.prefix, one, state)
    return ungrouped(g_q), joined(g_k, 2), joined(g_v, 2), g_bias
