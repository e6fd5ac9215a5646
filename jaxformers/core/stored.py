"""Keys and values in the form in which a cache keeps them, for an attention that reads that form: int8, or pages.

A decoding state's `write` may return these in the place of arrays [B,S,K,D].
"""

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.pytree import dataclass
from jaxformers.core.sharding import constrain


@dataclass
class Scaled:
    """Keys or values as int8 [B,S,K,D] with a factor for each token and head, float32 [B,S,K]."""

    values: jax.Array
    scale: jax.Array

    @property
    def heads(self) -> int:
        """Of keys."""
        return self.values.shape[2]

    def dense(self, dtype: Any) -> jax.Array:
        """The numbers, [B,S,K,D]."""
        return (self.values * self.scale[..., None]).astype(dtype)

    def placed(self) -> Self:
        """The same with its parts pinned to the mesh."""
        where = ("batch", "keys", "kv_heads")
        return self.replace(values=constrain(self.values, *where, None), scale=constrain(self.scale, *where))


@dataclass
class Paged:
    """Keys or values of rows in pages [P,size,K,D]; table [B,M] says which one holds a row's slots from m * size on.

    A page of -1 is none, and holds nothing that is visible. slots: Int [S], the slots there are, at most M * size.
    """

    pages: jax.Array
    table: jax.Array
    slots: jax.Array

    @property
    def heads(self) -> int:
        """Of keys."""
        return self.pages.shape[2]

    def dense(self, dtype: Any) -> jax.Array:
        """The numbers in the order of slots, [B,S,K,D]: a copy of every page."""
        return gathered(self.pages, self.table)[:, : self.slots.shape[0]].astype(dtype)

    def placed(self) -> Self:
        """The same with its parts pinned to the mesh; every device along the batch has all pages."""
        return self.replace(pages=constrain(self.pages, None, None, "kv_heads", None))


@dataclass
class Ragged:
    """Keys or values of rows whose new tokens lie end to end in one: those of row r are starts[r] to starts[r + 1].

    pages and table [R,M] as in `Paged`; they hold the new tokens too. Tokens from starts[R] on are padding.
    """

    pages: jax.Array
    table: jax.Array
    starts: jax.Array  # Int [R+1]
    lengths: jax.Array  # Int [R]: tokens that came before the new ones

    @property
    def heads(self) -> int:
        """Of keys."""
        return self.pages.shape[2]

    def dense(self, dtype: Any) -> jax.Array:
        """Raises NotImplementedError: queries of several rows see different keys."""
        raise NotImplementedError("rows laid end to end have no keys in common")

    def placed(self) -> Self:
        """The same with its pages pinned to the mesh."""
        return self.replace(pages=constrain(self.pages, None, None, "kv_heads", None))


def gathered(pages: jax.Array, table: jax.Array) -> jax.Array:
    """The pages of each row in order, [B,M * size,K,D]; those of -1 are zeros."""
    found = jnp.take(pages, jnp.where(table < 0, pages.shape[0], table), axis=0, mode="fill", fill_value=0)
    return found.reshape(table.shape[0], -1, *pages.shape[2:])


def rows_of(starts: jax.Array, tokens: int) -> tuple[jax.Array, jax.Array]:
    """The row of each token laid end to end, Int [tokens], and whether it is one; padding counts with the last row."""
    at = jnp.arange(tokens)
    row = jnp.searchsorted(starts, at, side="right") - 1
    return jnp.clip(row, 0, starts.shape[0] - 2), at < starts[-1]


def dense(x: Any, dtype: Any) -> jax.Array:
    """Keys or values [B,S,K,D] of whatever a cache handed over, numpy's arrays included."""
    return jnp.asarray(x, dtype) if isinstance(x, jax.Array | np.ndarray) else x.dense(dtype)
