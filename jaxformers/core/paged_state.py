"""PagedCache: keys and values in pages that rows need not hold in order, nor as many as they may grow to.

Rows are either written side by side, as every cache is, or laid end to end, each with as many new tokens as it has:
prompts beside single tokens, as a server that batches continuously needs it. See `core/pages.py` for who gets which
page. Source: arXiv:2309.06180.
"""

from typing import Self

import jax
import jax.numpy as jnp

from jaxformers.core.pytree import dataclass
from jaxformers.core.state import KVCache
from jaxformers.core.stored import Paged, Ragged, gathered, rows_of

PAGE = 128  # slots in a page: a kernel's turn reads whole pages


@dataclass
class PagedCache:
    """Pages k [P,size,K,D] and v [P,size,K,Dv], and which of them each row holds; see `Paged` and `Ragged`."""

    k: jax.Array
    v: jax.Array
    table: jax.Array  # Int32 [B,M], -1 for none
    slots: jax.Array  # Int32 [S]: slots that a row has room for, at most M * size
    starts: jax.Array | None = None  # Int32 [B+1]: where each row's new tokens begin, when laid end to end
    lengths: jax.Array | None = None  # Int32 [B]: tokens that each row has already, when laid end to end

    @classmethod
    def zeros(cls, cache: KVCache, size: int, count: int) -> Self:
        """An empty pool of `count` pages, of which no row has one, for rows and tokens as in `cache`."""
        *front, batch, length, _, _ = cache.k.shape
        pages = -(-length // size)

        def empty(x: jax.Array) -> jax.Array:
            return jnp.zeros((*front, count, size, *x.shape[-2:]), x.dtype)

        slots = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (*front, length))
        return cls(empty(cache.k), empty(cache.v), jnp.full((*front, batch, pages), -1, jnp.int32), slots)

    @classmethod
    def full(cls, cache: KVCache, size: int) -> Self:
        """An empty cache in which every row has pages for all of its slots, one after another."""
        *front, batch, length, _, _ = cache.k.shape
        new = cls.zeros(cache, size, batch * -(-length // size))
        own = jnp.arange(batch * new.table.shape[-1], dtype=jnp.int32).reshape(batch, -1)
        return new.replace(table=jnp.broadcast_to(own, new.table.shape))

    def write(self, k: jax.Array, v: jax.Array, slots: jax.Array):
        """Store k, v [B,T,K,D] at `slots` [T] of each row; laid end to end [1,T,K,D], after what their rows hold.

        What falls on a page that a row does not have is not kept.
        """
        if self.starts is not None:
            return self.write_ragged(k[0], v[0])
        size = self.k.shape[1]
        pages = jnp.take(self.table, slots // size, axis=1, mode="clip")
        new = self.put(k, v, pages, jnp.broadcast_to(slots % size, pages.shape))
        return new, *(Paged(x, self.table, self.slots) for x in (new.k, new.v)), self.slots

    def write_ragged(self, k: jax.Array, v: jax.Array):
        """`write` of k, v [T,K,D] laid end to end."""
        assert self.starts is not None and self.lengths is not None
        row, real = rows_of(self.starts, k.shape[0])
        place = self.lengths[row] + jnp.arange(k.shape[0]) - self.starts[row]
        size, most = self.k.shape[1], self.table.shape[1]
        page = jnp.where(real & (place < most * size), self.table[row, jnp.minimum(place // size, most - 1)], -1)
        new = self.put(k, v, page, place % size)
        pages = (Ragged(x, self.table, self.starts, self.lengths) for x in (new.k, new.v))
        return new, *pages, self.slots

    def put(self, k: jax.Array, v: jax.Array, pages: jax.Array, at: jax.Array) -> Self:
        """Store tokens [...,K,D] on `pages` [...], at these places of them."""
        none = jnp.where(pages < 0, self.k.shape[0], pages)
        k, v = k.astype(self.k.dtype), v.astype(self.v.dtype)
        return self.replace(k=self.k.at[none, at].set(k, mode="drop"), v=self.v.at[none, at].set(v, mode="drop"))

    def take(self, rows: jax.Array) -> Self:
        """Rows with pages of their own, since two rows that go on must not share one. Raises TypeError end to end."""
        if self.starts is not None:
            raise TypeError("rows laid end to end are chosen by their table: give rows the pages that they shall have")
        if self.k.ndim > 4:
            return jax.vmap(type(self).take, (0, None))(self, rows)
        table = self.table[rows]
        k, v = (gathered(x, table).reshape(table.size, *x.shape[1:]) for x in (self.k, self.v))
        own = jnp.arange(table.size, dtype=jnp.int32).reshape(table.shape)
        return self.replace(k=k, v=v, table=own)

    def grown(self, length: int) -> Self:
        """Room for `length` slots in each row, on new pages."""
        size, (*front, batch, pages) = self.k.shape[-3], self.table.shape
        more, count = -(-length // size) - pages, self.k.shape[-4]
        own = count + jnp.arange(batch * more, dtype=jnp.int32).reshape(batch, more)

        def longer(x: jax.Array) -> jax.Array:
            return jnp.pad(x, [(0, batch * more if axis == x.ndim - 4 else 0) for axis in range(x.ndim)])

        table = jnp.concatenate([self.table, jnp.broadcast_to(own, (*front, batch, more))], axis=-1)
        slots = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (*front, length))
        return self.replace(k=longer(self.k), v=longer(self.v), table=table, slots=slots)
