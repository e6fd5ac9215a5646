"""Rows, growth and going back, for every kind of state, stacked and not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.core.quant_state import QuantCache, quantize
from jaxformers.core.rows import grow, quantized, reorder_rows, rewind, take_rows, without_rings
from jaxformers.core.state import Cache, CrossState, KVCache, RingCache, SsmState

B, S = 3, 6


def numbers(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.RandomState(seed).randn(*shape), jnp.float32)


def full_cache(stacked: bool = False) -> Cache:
    """A cache with one state of every kind, each row holding its own numbers; latents as MLA keeps them."""
    kv, ring = KVCache(numbers(B, S, 2, 4), numbers(B, S, 2, 4)), RingCache.zeros(B, 4, 2, 4)
    ring = ring.write(numbers(B, 3, 2, 4), numbers(B, 3, 2, 4, seed=1), jnp.arange(3))[0]
    latent = KVCache(numbers(B, S, 1, 5), numbers(B, S, 1, 3))
    ssm = (SsmState(numbers(B, 3, 8), numbers(B, 8, 2)), SsmState(numbers(B, 3, 8), numbers(B, 4, 2, 2)))
    quant = QuantCache.empty_like(kv).write(kv.k[:, :2], kv.v[:, :2], jnp.arange(2))[0]
    layers: Any = ((kv, None, CrossState(numbers(B, 5, 2, 4), numbers(B, 5, 2, 4))), (ring,), (latent,), *ssm, (quant,))
    if stacked:
        layers = jax.tree.map(lambda x: jnp.stack([x, x + 1]), layers)
    valid = jnp.asarray([[True] * S, [False] + [True] * (S - 1), [False] * 2 + [True] * (S - 2)])
    return Cache(layers, jnp.asarray(3), valid, jnp.asarray([[1, 1, 1, 0, 0]] * B, bool), jnp.asarray([0, -1, -2]))


@pytest.mark.parametrize("stacked", [False, True])
def test_take_rows(stacked: bool) -> None:
    """Every array with a batch has its rows chosen; slots of a ring, which all rows share, stay."""
    cache = full_cache(stacked)
    rows = jnp.asarray([2, 0, 0, 1])
    taken = take_rows(cache, rows)
    axis = 1 if stacked else 0
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(cache), jax.tree.leaves(taken), strict=True):
        name = jax.tree_util.keystr(path)
        if name.endswith(".slots") or name == ".index":
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            at = axis if name.startswith(".layers") else 0
            np.testing.assert_array_equal(np.take(np.asarray(a), np.asarray(rows), axis=at), b, err_msg=name)


def test_reorder_rows_leaves_what_beams_share() -> None:
    cache = full_cache()
    moved = reorder_rows(cache, jnp.asarray([1, 1, 2]))
    assert moved.layers[0][2] is cache.layers[0][2] and moved.valid is cache.valid
    np.testing.assert_array_equal(moved.layers[0][0].k[0], cache.layers[0][0].k[1])
    np.testing.assert_array_equal(moved.layers[3].conv[0], cache.layers[3].conv[1])


@pytest.mark.parametrize("stacked", [False, True])
def test_grow(stacked: bool) -> None:
    """Only what holds every token grows; new slots are empty and count as real once written."""
    cache = full_cache(stacked)
    grown = grow(cache, 9)
    assert grown.length == 9 and bool(grown.valid[:, S:].all())
    k = grown.layers[0][0].k
    assert k.shape[-3] == 9 and grown.layers[5][0].k_scale.shape[-2:] == (1, 18)
    np.testing.assert_array_equal(k[..., :S, :, :], cache.layers[0][0].k)
    np.testing.assert_array_equal(grown.layers[5][0].k_scale[..., :12], cache.layers[5][0].k_scale)
    for n in (1, 3, 4):
        assert jax.tree.map(jnp.shape, grown.layers[n]) == jax.tree.map(jnp.shape, cache.layers[n])
    with pytest.raises(ValueError, match="cannot grow to 4"):
        grow(cache, 4)


def test_rewind() -> None:
    """Going back forgets the mask of later slots; states that cannot go back say so."""
    kv = full_cache().layers[0]
    valid = jnp.asarray([[True, True, False, True, False, True]])
    back = rewind(Cache((kv,), jnp.asarray(5), valid), jnp.asarray(2))
    assert int(back.index) == 2 and back.valid.tolist() == [[True] * 6]
    with pytest.raises(TypeError, match="without_rings"):
        rewind(full_cache(), jnp.asarray(2))
    with pytest.raises(TypeError, match="recurrent"):
        rewind(Cache((SsmState(numbers(1, 3, 8), numbers(1, 8, 2)),), jnp.asarray(5), valid), jnp.asarray(2))
    with pytest.raises(TypeError, match="holds a str"):
        rewind(Cache(("x",), jnp.asarray(5), valid), jnp.asarray(2))


def test_without_rings_and_quantized() -> None:
    empty = jax.tree.map(jnp.zeros_like, full_cache())
    wide = without_rings(empty).layers[1][0]
    assert isinstance(wide, KVCache) and wide.k.shape == (B, S, 2, 4)
    small = quantized(empty)
    assert isinstance(small.layers[0][0], QuantCache) and isinstance(small.layers[1][0], RingCache)
    assert small.layers[2][0].v.shape == (B, S, 1, 3) and small.layers[2][0].v.dtype == jnp.int8


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4))
def test_int8_is_off_by_half_a_step(values: list[float]) -> None:
    x = jnp.asarray(values, jnp.float32)
    small, scale = quantize(x)
    assert small.dtype == jnp.int8 and scale.shape == (1,)
    assert float(jnp.abs(small * scale - x).max()) <= float(scale[0]) * 0.5 * (1 + 1e-5)


def test_quant_cache_holds_what_was_written() -> None:
    """Tokens written in two calls come back to within half a step of their own scale, and empty slots are zero."""
    k, v = numbers(2, 5, 3, 8), numbers(2, 5, 3, 8, seed=1)
    cache = QuantCache.empty_like(KVCache.zeros(2, 7, 3, 8))
    cache = cache.write(k[:, :3], v[:, :3], jnp.arange(3))[0]
    cache, got_k, got_v, slots = cache.write(k[:, 3:], v[:, 3:], 3 + jnp.arange(2))
    for got, want in ((got_k, k), (got_v, v)):
        step = jnp.abs(want).max(-1, keepdims=True) / 127
        assert got.values.dtype == jnp.int8 and got.scale.shape == (2, 7, 3)
        numbers_back = got.dense(jnp.float32)
        assert bool((jnp.abs(numbers_back[:, :5] - want) <= 0.501 * step).all()) and not numbers_back[:, 5:].any()
    assert slots.tolist() == list(range(7))
