"""The TPU's attention to a cache, interpreted on a CPU, against float64: every form of cache and kind of mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from jaxformers.core.quant_state import quantize
from jaxformers.kernels.attention.decode_blocks import Settings, Stored, block_tokens
from jaxformers.kernels.attention.decode_tpu import decode_attention
from jaxformers.kernels.attention.visibility import Visibility, visible_array
from tests.kernels import float64

B, S, H, K, D = 2, 340, 4, 2, 64  # of 128 keys are a block below, which does not divide 340
SLOTS = jnp.arange(S)
PADDING = SLOTS[None] >= jnp.array([[3], [200]])
SMALL = 2**17  # bytes of a block


def arrays(t: int, heads: int = H, kv: int = K, d: int = D, dv: int = D, dtype: str = "float32") -> tuple:
    shapes = [(B, t, heads, d), (B, S, kv, d), (B, S, kv, dv)]
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))


def in_pages(x: jax.Array, size: int, owner: np.ndarray) -> jax.Array:
    """Keys [B,S,K,D] on the pages that `owner` [B,M] names; what no row holds is NaN."""
    b, length, *rest = x.shape
    x = jnp.pad(x, ((0, 0), (0, -length % size), (0, 0), (0, 0)))
    pages = x.reshape(-1, size, *rest)
    return jnp.full((owner.max() + 3, *pages.shape[1:]), jnp.nan, x.dtype).at[owner.reshape(-1)].set(pages)


def run(q, stored: Stored, seen: Visibility, fixed: Settings, **extras) -> np.ndarray:
    table = stored.table

    @jax.jit
    def attend(q, stored, seen, extras):
        return decode_attention(q, stored._replace(table=table), seen, fixed, **extras)

    return np.asarray(attend(q, stored._replace(table=None), seen, extras), np.float64)


def truth(q, k, v, seen: Visibility, fixed: Settings, **extras) -> np.ndarray:
    none = np.zeros((*q.shape[:3], v.shape[-1])), np.zeros((B, q.shape[2], q.shape[1]))
    return float64.attention(q, k, v, visible_array(seen), none, scale=fixed.scale, softcap=fixed.softcap, **extras).out


def check(q, k, v, seen: Visibility, softcap: float | None = None, splits: int = 1, **extras) -> None:
    fixed = Settings(q.shape[-1] ** -0.5, softcap, splits, SMALL, interpret=True)
    got = run(q, Stored(k, v), seen, fixed, **extras)
    np.testing.assert_allclose(got, truth(q, k, v, seen, fixed, **extras), atol=2e-6)


def last(t: int, end: int = 300) -> jax.Array:
    """Slots of t queries that follow each other."""
    return jnp.arange(t) + end - t


CASES = {
    "one query, padded": (arrays(1), Visibility(SLOTS, high=last(1), keys=PADDING), {}),
    "all rules": (
        arrays(5, dv=32),
        Visibility(
            SLOTS, last(5) - 90, last(5), jnp.array([3, 260]), PADDING, (last(5) // 90)[None], SLOTS[None] // 90
        ),
        {"softcap": 5.0, "splits": 2, "sinks": jnp.linspace(-1, 3, H)},
    ),
    "more rows than a step holds": (arrays(100), Visibility(SLOTS, high=last(100, 130), keys=PADDING), {}),
    "a bias for each query": (
        arrays(3),
        Visibility(SLOTS, high=last(3)),
        {"bias": jax.random.normal(jax.random.key(3), (B, H, 3, S))},
    ),
    "a bias without groups": (
        arrays(1, 6, 6, 8, 8),
        Visibility(SLOTS, high=last(1)),
        {"bias": jax.random.normal(jax.random.key(3), (1, 6, 1, S))},
    ),
    "one kv head, everything visible": (arrays(2, 4, 1, 80, 128), Visibility(), {}),
    "slots of a ring": (arrays(1, 6, 3), Visibility((SLOTS + 57) % S + 100, last(1) - 200, last(1)), {}),
    "nothing to see": (
        arrays(2),
        Visibility(SLOTS, high=last(2), keys=jnp.zeros((B, S), bool).at[1].set(True)),
        {"splits": 2},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_against_float64(name: str) -> None:
    given, seen, more = CASES[name]
    check(*given, seen, **more)


@pytest.mark.parametrize("splits", [1, 2])
def test_int8(splits: int) -> None:
    """The numbers that int8 stands for, exactly: scales are applied to scores and to probabilities."""
    q, k, v = arrays(2)
    (k8, k_scale), (v8, v_scale) = quantize(k), quantize(v)
    stored = Stored(k8, v8, k_scale[..., 0], v_scale[..., 0])
    seen, fixed = (
        Visibility(SLOTS, high=last(2), keys=PADDING),
        Settings(0.125, None, splits, SMALL // 4, interpret=True),
    )
    want = truth(q, k8 * k_scale, v8 * v_scale, seen, fixed)
    np.testing.assert_allclose(run(q, stored, seen, fixed), want, atol=2e-6)


@pytest.mark.parametrize("size", [16, 128])
def test_pages(size: int) -> None:
    """Out of order, the last one partly used, those that no row holds full of NaN, a page that is missing unseen."""
    q, k, v = arrays(2)
    count = -(-S // size)
    owner = np.random.RandomState(0).permutation(B * count).reshape(B, count)
    table = jnp.asarray(owner).at[:, -1].set(-1)  # beyond what is written
    seen, fixed = (
        Visibility(SLOTS, high=last(2, 250), keys=PADDING),
        Settings(0.125, interpret=True, block_bytes=SMALL // 2),
    )
    stored = Stored(in_pages(k, size, owner), in_pages(v, size, owner), table=table)
    np.testing.assert_allclose(run(q, stored, seen, fixed), truth(q, k, v, seen, fixed), atol=2e-6)


def test_what_is_not_seen_is_not_read() -> None:
    """NaN in blocks behind the window and after the last token written harms nothing."""
    q, k, v = arrays(1, heads=2, kv=2)
    tokens = block_tokens(S, 2, 128 * 4, 2, SMALL)
    assert tokens == 128
    far = ((SLOTS < 128) | (SLOTS >= 256))[None, :, None, None]
    seen, fixed = (
        Visibility(SLOTS, last(1, 250) - 100, last(1, 250)),
        Settings(0.125, block_bytes=SMALL, interpret=True),
    )
    spoiled = Stored(*(jnp.where(far, jnp.nan, x) for x in (k, v)))
    np.testing.assert_allclose(run(q, spoiled, seen, fixed), truth(q, k, v, seen, fixed), atol=2e-6)


def test_extreme_scores() -> None:
    """Scores of +-1e4 choose among keys of one sign; nothing is NaN."""
    q, k, v = arrays(2)
    q, k = jnp.sign(q[..., :1]) * jnp.ones_like(q) / 8.0, 1e4 * jnp.sign(k[..., :1]) * jnp.ones_like(k)
    seen, fixed = Visibility(SLOTS, high=last(2)), Settings(0.125, None, 2, SMALL, interpret=True)
    np.testing.assert_allclose(run(q, Stored(k, v), seen, fixed), truth(q, k, v, seen, fixed), atol=1e-5)


def test_bfloat16_is_as_exact_as_the_plain_form() -> None:
    from jaxformers.core.mask import Mask
    from jaxformers.ops.plain_attention import reference

    q, k, v = arrays(3, dtype="bfloat16")
    seen, fixed = Visibility(SLOTS, high=last(3)), Settings(0.125, block_bytes=SMALL // 2, interpret=True)
    want = truth(q, k, v, seen, fixed)
    plain = reference(q, k, v, Mask(right=0), q_slots=last(3), k_slots=SLOTS, scale=0.125)
    errors = [
        float(np.sqrt(((np.asarray(x, np.float64) - want) ** 2).mean()))
        for x in (run(q, Stored(k, v), seen, fixed), plain)
    ]
    print(errors)
    assert errors[0] <= errors[1]


@pytest.mark.slow
def test_no_races() -> None:
    """Rows and splits run on two cores in any order."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    q, k, v = (x[:1] for x in arrays(1, 2, 1, 8, 128))
    watched = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)
    fixed = Settings(0.3, None, 2, SMALL // 2, interpret=watched)
    seen = Visibility(SLOTS, high=last(1))
    got = run(q, Stored(k, v), seen, fixed)
    assert not interpret_pallas_call.races.races_found
    none = np.zeros((1, 1, 2, 128)), np.zeros((1, 2, 1))
    want = float64.attention(q, k, v, visible_array(seen), none, scale=0.3).out
    np.testing.assert_allclose(got, want, atol=2e-6)


@st.composite
def cases(draw) -> tuple[int, Visibility]:
    """Some queries, and any combination of rules."""
    t = draw(st.sampled_from([1, 2, 7]))
    slots = last(t, draw(st.integers(t, S)))
    rules: dict = {"high": slots}
    if draw(st.booleans()):
        rules["low"] = slots - draw(st.integers(0, 200))
    if draw(st.booleans()):
        rules["prefix"] = jnp.array(draw(st.lists(st.integers(0, S), min_size=B, max_size=B)))
    if draw(st.booleans()):
        first, end = draw(st.integers(0, S)), draw(st.integers(0, S))
        rules["keys"] = (SLOTS[None] >= first) & (SLOTS[None] <= jnp.array([[end], [S]]))
    return t, Visibility(slots=SLOTS, **rules)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases(), st.sampled_from([None, 20.0]), st.booleans(), st.sampled_from([1, 2, 3]))
def test_any_combination_of_rules(case: tuple, softcap: float | None, sinks: bool, splits: int) -> None:
    t, seen = case
    extras = {"sinks": jnp.array([0.5, -2.0])} if sinks else {}
    check(*arrays(t, 2, 1, 8, 8), seen, softcap, splits, **extras)
