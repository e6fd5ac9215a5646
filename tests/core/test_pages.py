"""Caches in pages: what is written comes back, rows keep apart, and who gets which page."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.core.end_to_end import laid_end_to_end
from jaxformers.core.paged_state import PagedCache
from jaxformers.core.pages import FreePages, allocate, release
from jaxformers.core.rows import grow, paged, take_rows
from jaxformers.core.state import Cache, KVCache, RingCache

B, S, K, D, SIZE = 3, 10, 2, 4, 4


def numbers(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.RandomState(seed).randn(*shape), jnp.float32)


def written(stacked: bool = False) -> tuple[Cache, jax.Array]:
    """A cache with six tokens of each row in pages, and their keys."""
    k = numbers(B, 6, K, D)
    state = PagedCache.full(KVCache.zeros(B, S, K, D), SIZE)
    state = state.write(k[:, :5], k[:, :5] * 2, jnp.arange(5))[0].write(k[:, 5:], k[:, 5:] * 2, 5 + jnp.arange(1))[0]
    layers = (jax.tree.map(lambda x: jnp.stack([x, x]), state),) if stacked else (state,)
    return Cache(layers, jnp.asarray(6), jnp.ones((B, S), bool)), k


def keys_of(cache: Cache, layer: int | None = None) -> jax.Array:
    """All slots of a state, [B,S,K,D], as attention reads them."""
    state = cache.layers[0]
    state = state if layer is None else jax.tree.map(lambda x: x[layer], state)
    nothing = jnp.zeros((state.table.shape[0], 0, K, D))
    return state.write(nothing, nothing, jnp.arange(0))[1].dense(jnp.float32)


def test_what_is_written_comes_back() -> None:
    cache, k = written()
    got = keys_of(cache)
    assert got.shape == (B, S, K, D)
    np.testing.assert_array_equal(got[:, :6], k)
    assert not got[:, 6:].any()


@pytest.mark.parametrize("layer", [None, 1])
def test_chosen_rows_have_pages_of_their_own(layer: int | None) -> None:
    cache, k = written(stacked=layer is not None)
    rows = jnp.array([2, 0, 0, 1])
    taken = take_rows(cache, rows)
    np.testing.assert_array_equal(keys_of(taken, layer)[:, :6], k[rows])
    pages = np.asarray(taken.layers[0].table[layer] if layer is not None else taken.layers[0].table).ravel()
    assert len(set(pages)) == len(pages)


@pytest.mark.parametrize("layer", [None, 1])
def test_growing_leaves_what_was_written(layer: int | None) -> None:
    cache, k = written(stacked=layer is not None)
    long = grow(cache, 21)
    assert long.length == 21 and keys_of(long, layer).shape[1] == 21
    np.testing.assert_array_equal(keys_of(long, layer)[:, :6], k)
    assert grow(cache, 12).layers[0].k.shape == cache.layers[0].k.shape  # the last page had room


def test_only_what_grows_with_the_text_lies_in_pages() -> None:
    layers = ((KVCache.zeros(B, S, K, D),), (RingCache.zeros(B, 4, K, D),))
    cache = paged(Cache(layers, jnp.asarray(0), jnp.ones((B, S), bool)), SIZE)
    assert [type(x[0]).__name__ for x in cache.layers] == ["PagedCache", "RingCache"]
    with pytest.raises(TypeError, match="a layer has a RingCache"):
        laid_end_to_end(cache, 4, jnp.zeros((1, 1)), jnp.array([0, 4]), jnp.zeros(1))


def test_rows_laid_end_to_end() -> None:
    """Each row's tokens land after those that it has; padding, and tokens without a page, are dropped."""
    cache = Cache((PagedCache.zeros(KVCache.zeros(2, 8, K, D), SIZE, 5),), jnp.asarray(0), jnp.ones((2, 8), bool))
    table = jnp.array([[3, 1], [0, -1]])
    cache = laid_end_to_end(cache, 9, table, jnp.array([0, 3, 7]), jnp.array([2, 1]))
    k = numbers(1, 9, K, D)
    state = cache.layers[0].write(k, k, jnp.arange(9))[0]
    np.testing.assert_array_equal(state.k[3, 2:], k[0, :2])
    np.testing.assert_array_equal(state.k[1, 0], k[0, 2])
    np.testing.assert_array_equal(state.k[0, 1:], k[0, 3:6])
    assert int((state.k != 0).sum()) == 6 * K * D
    with pytest.raises(TypeError, match="end to end"):
        take_rows(cache.replace(valid=jnp.ones((2, 8), bool)), jnp.array([0]))


def test_too_few_pages_change_nothing() -> None:
    free, table = FreePages.of(3), jnp.full((2, 3), -1)
    free, table, enough = allocate(free, table, jnp.array([5, 1]), SIZE)
    assert enough and int(free.count) == 0 and table.tolist() == [[0, 1, -1], [2, -1, -1]]
    for lengths in ([5, 5], [13, 1]):
        same, kept, enough = allocate(free, table, jnp.array(lengths), SIZE)
        assert not enough and int(same.count) == 0 and kept.tolist() == table.tolist()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 16)), min_size=1, max_size=8))
def test_every_page_has_one_holder(moves: list[tuple[int, int]]) -> None:
    """Rows grow and go; each page is free or in one place of one row, whatever came before."""
    free, table, lengths = FreePages.of(9), jnp.full((4, 4), -1), np.zeros(4, int)
    for row, length in moves:
        if length == 0:
            free, table = release(free, table, jnp.arange(4) == row)
            lengths[row] = 0
        else:
            wanted = np.maximum(lengths, np.where(np.arange(4) == row, length, 0))
            free, table, enough = allocate(free, table, jnp.asarray(wanted), SIZE)
            lengths = wanted if enough else lengths
        held = np.asarray(table)
        assert ((held >= 0).sum(1) == -(-lengths // SIZE)).all()
        assert sorted([*held[held >= 0], *np.asarray(free.pages)[: int(free.count)]]) == list(range(9))
