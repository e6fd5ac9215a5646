"""The TPU's attention of rows laid end to end, interpreted on a CPU, against float64 row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.attention.decode_blocks import Settings
from jaxformers.kernels.attention.ragged_tpu import Ragged, block_of_tokens, ragged_attention
from tests.kernels import float64

PAGE, MOST = 16, 4  # tokens in a page, pages of a row


def check(
    news, olds, total: int, heads=(8, 2), d: int = 32, left=None, sinks=None, tokens=None, interpret=True
) -> None:
    """Rows with `news` new tokens after `olds` old ones, in an array of `total` tokens; pages out of order."""
    (h, kv), rows = heads, len(news)
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (total, h, d))
    k, v = (jax.random.normal(key, (rows, MOST * PAGE, kv, d)) for key in keys[1:3])
    owner = jax.random.permutation(keys[3], rows * MOST + 3)[: rows * MOST]

    def pages(x: jax.Array) -> jax.Array:
        empty = jnp.full((rows * MOST + 3, PAGE, kv, d), jnp.nan)
        return empty.at[owner].set(x.reshape(rows * MOST, PAGE, kv, d))

    starts = np.concatenate([[0], np.cumsum(news)])
    fixed = Settings(d**-0.5, interpret=interpret)

    @jax.jit
    def run(q, k, v, starts, olds):
        table = owner.reshape(rows, MOST)
        return ragged_attention(q, Ragged(k, v, table, starts, olds, left), fixed, sinks=sinks, tokens=tokens)

    got = np.asarray(run(q, pages(k), pages(v), jnp.asarray(starts), jnp.asarray(olds)))
    for r, (new, old) in enumerate(zip(news, olds, strict=True)):
        at, slots = old + np.arange(new)[:, None], np.arange(MOST * PAGE)
        seen = (slots <= at) & (True if left is None else slots >= at - left)
        one = slice(starts[r], starts[r + 1])
        none = np.zeros((1, new, h, d)), np.zeros((1, h, new))
        want = float64.attention(
            q[None, one], k[r : r + 1], v[r : r + 1], seen[None], none, scale=d**-0.5, sinks=sinks
        ).out
        np.testing.assert_allclose(got[None, one], want, atol=3e-6)
    assert np.isfinite(got).all() and not got[starts[-1] :].any()


def test_single_tokens() -> None:
    assert block_of_tokens(4, 32, 4) == 1
    check([1, 1, 1, 1], [5, 60, 0, 17], 4)


def test_prompts_and_single_tokens_with_empty_rows_and_padding() -> None:
    check([1, 20, 0, 3, 1], [5, 30, 9, 0, 63], 33)


def test_windows_sinks_and_blocks_that_straddle_rows() -> None:
    check([3, 20, 1], [5, 30, 62], 25, (4, 4), left=10, sinks=jnp.arange(4.0), tokens=8)


def test_nothing_at_all() -> None:
    check([0, 0, 0], [5, 0, 0], 7, (4, 1))


@pytest.mark.slow
def test_no_races() -> None:
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    check([1, 9], [20, 3], 12, (4, 1), interpret=pltpu.InterpretParams(detect_races=True))
    assert not interpret_pallas_call.races.races_found


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 50)), min_size=4, max_size=4), st.sampled_from([None, 7]))
def test_any_mix_of_rows(rows: list[tuple[int, int]], left: int | None) -> None:
    news, olds = zip(*rows, strict=True)
    check(list(news), list(olds), 48, (4, 2), 8, left)
