"""Who gets which page: a stack of free pages, and tables of rows, changed by pure functions of fixed shapes."""

import jax
import jax.numpy as jnp

from jaxformers.core.pytree import dataclass


@dataclass
class FreePages:
    """Pages that no row has: the first `count` of `pages` [P]."""

    pages: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, count: int) -> "FreePages":
        """All of them, the lowest to be given first."""
        return cls(jnp.arange(count - 1, -1, -1, dtype=jnp.int32), jnp.asarray(count, jnp.int32))


def allocate(
    free: FreePages, table: jax.Array, lengths: jax.Array, size: int
) -> tuple[FreePages, jax.Array, jax.Array]:
    """Give rows the pages that they lack to hold `lengths` [R] tokens: (free pages, table [R,M], enough Bool []).

    size: tokens in a page. Where there are too few, or a row's table is too short, nothing changes.
    """
    wanted = -(-lengths // size)
    lacks = (jnp.arange(table.shape[1]) < wanted[:, None]) & (table < 0)
    order = jnp.cumsum(lacks).reshape(lacks.shape) - 1
    given = free.pages[jnp.clip(free.count - 1 - order, 0, free.pages.shape[0] - 1)]
    count = lacks.sum()
    enough = (count <= free.count) & jnp.all(wanted <= table.shape[1])
    table = jnp.where(enough & lacks, given, table)
    return free.replace(count=free.count - jnp.where(enough, count, 0)), table, enough


def release(free: FreePages, table: jax.Array, rows: jax.Array) -> tuple[FreePages, jax.Array]:
    """Take all pages back from `rows`, Bool [R]."""
    back = rows[:, None] & (table >= 0)
    order = jnp.cumsum(back).reshape(back.shape) - 1
    at = jnp.where(back, free.count + order, free.pages.shape[0])
    pages = free.pages.at[at].set(table, mode="drop")
    return FreePages(pages, free.count + back.sum(dtype=jnp.int32)), jnp.where(back, -1, table)
