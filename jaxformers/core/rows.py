"""Whole caches: choose rows, make longer, go back. One place that knows every kind of decoding state.

Stacked states (scanned layers) have one more axis in front; every function here takes both.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.paged_state import PAGE, PagedCache
from jaxformers.core.quant_state import QuantCache
from jaxformers.core.state import Cache, CrossState, KVCache, RingCache, SsmState

STATES = (KVCache, QuantCache, PagedCache, RingCache, CrossState, SsmState)


def map_states(layers: tuple, change: Callable[[Any], Any]) -> tuple:
    """`change` applied to every state of the layers."""

    def one(state: Any) -> Any:
        if not isinstance(state, STATES):
            known = ", ".join(kind.__name__ for kind in STATES)
            raise TypeError(f"a cache holds a {type(state).__name__}; expected one of {known}")
        return change(state)

    return jax.tree.map(one, layers, is_leaf=lambda x: isinstance(x, STATES))


def take(x: jax.Array, rows: jax.Array, rank: int) -> jax.Array:
    """Rows of an array whose unstacked form has `rank` axes, the batch first."""
    return jnp.take(x, rows, axis=x.ndim - rank)


def take_state(state: Any, rows: jax.Array) -> Any:
    """A state's rows."""
    if isinstance(state, SsmState):
        stacked = state.conv.ndim - 3
        return SsmState(take(state.conv, rows, 3), jnp.take(state.hidden, rows, axis=stacked))
    if isinstance(state, RingCache):  # all rows share their slots
        return state.replace(k=take(state.k, rows, 4), v=take(state.v, rows, 4))
    if isinstance(state, PagedCache):
        return state.take(rows)
    if isinstance(state, QuantCache):
        scales = {name: take(getattr(state, name), rows, 3) for name in ("k_scale", "v_scale")}
        return state.replace(k=take(state.k, rows, 4), v=take(state.v, rows, 4), **scales)
    return jax.tree.map(lambda x: take(x, rows, 4), state)


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """A cache whose row i is row rows[i] of the old one; there may be more or fewer rows than before. rows Int [N]."""

    def taken(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else x[rows]

    return cache.replace(
        layers=map_states(cache.layers, lambda s: take_state(s, rows)),
        valid=cache.valid[rows],
        encoder_valid=taken(cache.encoder_valid),
        shift=taken(cache.shift),
    )


def reorder_rows(cache: Cache, rows: jax.Array) -> Cache:
    """As `take_rows` where rows[i] continues the same text as row i: masks and what an encoder said stay in place."""

    def one(state: Any) -> Any:
        return state if isinstance(state, CrossState) else take_state(state, rows)

    return cache.replace(layers=map_states(cache.layers, one))


def pad_slots(x: jax.Array, more: int, rank: int) -> jax.Array:
    """`more` zeros at the end of the axis after the batch's."""
    width = [(0, 0)] * x.ndim
    width[x.ndim - rank + 1] = (0, more)
    return jnp.pad(x, width)


def pad_last(x: jax.Array, more: int) -> jax.Array:
    """`more` zeros at the end of the last axis."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)])


def grow(cache: Cache, length: int) -> Cache:
    """The same cache with room for `length` tokens. Rings and recurrent states do not depend on the length.

    Raises ValueError when it is longer already.
    """
    more = length - cache.length
    if more < 0:
        raise ValueError(f"the cache has {cache.length} slots; it cannot grow to {length}")

    def one(state: Any) -> Any:
        if isinstance(state, (RingCache, CrossState, SsmState)):
            return state
        if isinstance(state, PagedCache):
            return state.grown(length)
        longer = {name: pad_slots(getattr(state, name), more, 4) for name in ("k", "v")}
        if isinstance(state, QuantCache):
            scales = {name: getattr(state, name) for name in ("k_scale", "v_scale")}
            longer |= {name: pad_last(x, more * x.shape[-1] // cache.length) for name, x in scales.items()}
        return state.replace(**longer)

    valid = jnp.pad(cache.valid, ((0, 0), (0, more)), constant_values=True)
    return cache.replace(layers=map_states(cache.layers, one), valid=valid)


def rewind(cache: Cache, index: jax.Array) -> Cache:
    """Forget every token from slot `index` on.

    Raises TypeError for states that cannot: rings (see `without_rings`) and recurrent ones.
    """

    def one(state: Any) -> Any:
        if isinstance(state, RingCache):
            raise TypeError("a RingCache has overwritten what lies further back; make the cache with without_rings")
        if isinstance(state, SsmState):
            raise TypeError("a recurrent state cannot go back; use a model whose layers all attend")
        return state

    slots = jnp.arange(cache.length)
    return cache.replace(
        layers=map_states(cache.layers, one),
        valid=cache.valid | (slots >= index),
        index=jnp.asarray(index, cache.index.dtype),
    )


def without_rings(cache: Cache) -> Cache:
    """An empty cache that keeps every token in every layer, so that it can go back; windows still hide what they do."""

    def one(state: Any) -> Any:
        if not isinstance(state, RingCache):
            return state
        return KVCache(*(whole(x, cache.length) for x in (state.k, state.v)))

    return cache.replace(layers=map_states(cache.layers, one))


def whole(x: jax.Array, length: int) -> jax.Array:
    """Zeros for `length` slots in the place of a ring's entries."""
    axis = x.ndim - 3
    return jnp.zeros((*x.shape[:axis], length, *x.shape[axis + 1 :]), x.dtype)


def quantized(cache: Cache) -> Cache:
    """An empty cache whose keys and values of all tokens are stored as int8; rings stay as they are, being short."""

    def one(state: Any) -> Any:
        return QuantCache.empty_like(state) if isinstance(state, KVCache) else state

    return cache.replace(layers=map_states(cache.layers, one))


def paged(cache: Cache, size: int = PAGE) -> Cache:
    """An empty cache whose keys and values of all tokens lie in pages of `size`; each row has all that it needs."""

    def one(state: Any) -> Any:
        return PagedCache.full(state, size) if isinstance(state, KVCache) else state

    return cache.replace(layers=map_states(cache.layers, one))
