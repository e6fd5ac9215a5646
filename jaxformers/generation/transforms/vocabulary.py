"""Which tokens of the vocabulary a list of ids names, and which tokens stand at the end of what was seen."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxformers.core.errors import ConfigError
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import Array


def named(ids: Array, vocabulary: int) -> jax.Array:
    """Bool [V]: the tokens among `ids` [E]; ids outside the vocabulary name nothing."""
    ids = jnp.asarray(ids)
    # A negative index would count from the end.
    return jnp.zeros(vocabulary, bool).at[jnp.where(ids < 0, vocabulary, ids)].set(True, mode="drop")


def named_by_row(ids: jax.Array, counts: jax.Array, vocabulary: int) -> jax.Array:
    """Bool [B,V]: the tokens among `ids` [B,E] where `counts` (Bool, [B,E] or [E]) is true."""
    where = jnp.where(counts & (ids >= 0), ids, vocabulary)
    rows = jnp.arange(ids.shape[0])[:, None]
    return jnp.zeros((ids.shape[0], vocabulary), bool).at[rows, where].set(True, mode="drop")


def best(values: jax.Array, count: int) -> jax.Array:
    """Bool [B,V]: the `count` greatest values of each row; of equal ones, those of the lowest tokens."""
    chosen = lax.top_k(values, min(count, values.shape[-1]))[1]
    return named_by_row(chosen, jnp.ones_like(chosen, bool), values.shape[-1])


def least_of_best(scores: jax.Array, count: int) -> jax.Array:
    """The `count`-th greatest score of each row, [B,1]."""
    if count == 1:
        return scores.max(-1, keepdims=True)
    # Without the barrier XLA sees that one value of the selection is read and sorts the whole row, 80 times slower.
    # It stands on the values alone: over the pair, XLA's partitioner for several CPU devices ends the process.
    return lax.optimization_barrier(lax.top_k(scores, min(count, scores.shape[-1]))[0])[..., -1:]


def latest(seen: Seen, count: int) -> jax.Array:
    """Int [B,count]: the tokens before the next one. Meaningless where fewer were seen: look at `seen.length`."""
    return lax.dynamic_slice_in_dim(seen.tokens, seen.end - count, count, axis=1)


def for_rows(values: Array, rows: int) -> jax.Array:
    """Each row of `values` as often as beams need it, [rows, ...]."""
    values = jnp.asarray(values)
    if rows % values.shape[0]:
        raise ConfigError(f"{values.shape[0]} rows cannot serve {rows} rows of scores: give one for each row or input")
    return values if values.shape[0] == rows else jnp.repeat(values, rows // values.shape[0], axis=0)
