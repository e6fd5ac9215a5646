"""Calls in which the new tokens of many rows lie end to end, as a server that batches continuously makes them."""

from typing import Any

import jax.numpy as jnp

from jaxformers.core.paged_state import PagedCache
from jaxformers.core.rows import map_states
from jaxformers.core.state import Cache


def laid_end_to_end(cache: Cache, tokens: int, table: Any, starts: Any, lengths: Any) -> Cache:
    """The cache for a call with `tokens` [1,tokens], in which row r has those from starts[r] to starts[r + 1].

    table Int [R,M], starts Int [R+1], lengths Int [R] (tokens that a row has already); call it inside the jitted step,
    so that all layers are seen to share them. Raises TypeError if a layer's state is not a PagedCache.
    """

    def one(state: Any) -> Any:
        if not isinstance(state, PagedCache):
            raise TypeError(
                f"rows are laid end to end in a PagedCache only, and a layer has a {type(state).__name__}: "
                "make the cache with paged(without_rings(...)); recurrent layers cannot"
            )
        front = state.table.shape[:-2]
        rows = (jnp.broadcast_to(x, (*front, *jnp.shape(x))).astype(jnp.int32) for x in (table, starts, lengths))
        new = dict(zip(("table", "starts", "lengths"), rows, strict=True))
        return state.replace(**new)

    return cache.replace(
        layers=map_states(cache.layers, one), index=jnp.zeros((), jnp.int32), valid=jnp.ones((1, tokens), bool)
    )
