"""The TPU's flash attention, interpreted on a CPU, against float64: values and gradients for every kind of mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.attention.blocks import Blocks
from jaxformers.kernels.attention.flash_tpu import flash_attention
from jaxformers.kernels.attention.tpu_blocks import Settings
from jaxformers.kernels.attention.visibility import Visibility, visible_array
from tests.kernels import float64

B, T, S = 2, 300, 340  # neither length divides by a block
Q_SLOTS, K_SLOTS = jnp.arange(T) + S - T, jnp.arange(S)
SMALL = Blocks((128, 256), (128, 128), (256, 128))
PACKED = {"q_segments": Q_SLOTS[None] // 90, "k_segments": K_SLOTS[None] // 90}
PADDING = {"keys": K_SLOTS[None] >= jnp.array([[0], [200]])}
CAUSAL = Visibility(K_SLOTS, high=Q_SLOTS)
MASKS = {
    "all at once": Visibility(K_SLOTS, Q_SLOTS - 100, Q_SLOTS + 9, jnp.array([3, 260]), **PADDING, **PACKED),
    "nothing for some": Visibility(K_SLOTS, high=Q_SLOTS - 200),
}
MORE_MASKS = {
    "full": Visibility(),
    "causal": CAUSAL,
    "window": Visibility(K_SLOTS, Q_SLOTS - 50, Q_SLOTS),
    "around": Visibility(K_SLOTS, Q_SLOTS - 30, Q_SLOTS + 60),
    "prefix": Visibility(K_SLOTS, Q_SLOTS - 20, Q_SLOTS, jnp.array([150, 2])),
    "padding": Visibility(K_SLOTS, high=Q_SLOTS, **PADDING),
    "segments": Visibility(K_SLOTS, high=Q_SLOTS, **PACKED),
    "nothing at all": Visibility(K_SLOTS, high=Q_SLOTS, keys=jnp.zeros((B, S), bool)),
}


def arrays(heads: int = 4, kv: int = 2, d: int = 64, dv: int = 64) -> tuple[jax.Array, ...]:
    """q, k, v and gradients of the output and the logarithm, float32."""
    shapes = [(B, T, heads, d), (B, S, kv, d), (B, S, kv, dv), (B, T, heads, dv), (B, heads, T)]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


def plain(q, k, v, visibility: Visibility, fixed: Settings, bias=None, sinks=None) -> tuple[jax.Array, jax.Array]:
    """The same by XLA, with scores in float32 as the attention op's reference has them."""
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    exact = "highest" if q.dtype == jnp.float32 else None
    s = jnp.einsum("bthd,bshd->bhts", q, k, precision=exact).astype(jnp.float32) * fixed.scale
    s = s if fixed.softcap is None else jnp.tanh(s / fixed.softcap) * fixed.softcap
    s = s if bias is None else s + bias
    seen = visible_array(visibility)
    s = s if seen is None else jnp.where(seen[:, None], s, -1e30)
    if sinks is not None:
        s = jnp.concatenate([s, jnp.broadcast_to(sinks[None, :, None, None], (*s.shape[:3], 1))], -1)
    weights = jax.nn.softmax(s, axis=-1)[..., : k.shape[1]].astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v, precision=exact), jax.nn.logsumexp(s, axis=-1)


def both_ways(attend, fixed: Settings, visibility: Visibility, given: tuple, extras: dict) -> float64.Truth:
    """Outputs and gradients of an attention, as float64 has them."""

    @jax.jit
    def run(q, k, v, grad, grad_lse, extras, visibility):
        def forward(q, k, v, extras):
            return attend(q, k, v, visibility, fixed, **extras)

        (out, lse), pull = jax.vjp(forward, q, k, v, extras)
        # An empty row's logarithm is a mark, not a value.
        d_q, d_k, d_v, d_extras = pull((grad, jnp.where(lse > -1e29, grad_lse, 0.0)))
        return float64.Truth(out, lse, d_q, d_k, d_v, d_extras.get("bias"), d_extras.get("sinks"))

    return run(*given, extras, visibility)


def truth(fixed: Settings, visibility: Visibility, given: tuple, extras: dict) -> float64.Truth:
    seen = visible_array(visibility)
    q, k, v, grad, grad_lse = given
    if seen is not None and "sinks" not in extras:
        grad_lse = np.asarray(grad_lse) * np.broadcast_to(np.asarray(seen).any(-1)[:, None], grad_lse.shape)
    return float64.attention(q, k, v, seen, (grad, grad_lse), scale=fixed.scale, softcap=fixed.softcap, **extras)


def compare(got: float64.Truth, want: float64.Truth, tolerance: float = 3e-6) -> None:
    for name, a, b in zip(want._fields, got, want, strict=True):
        assert (a is None) == (b is None), name
        if b is not None:
            size = max(1.0, float(np.abs(np.where(np.abs(b) < 1e29, b, 0)).max()))
            np.testing.assert_allclose(np.asarray(a, np.float64), b, atol=tolerance * size, err_msg=name)


def check(visibility: Visibility, given: tuple, softcap: float | None = None, **extras) -> None:
    fixed = Settings(given[0].shape[-1] ** -0.5, softcap, SMALL, interpret=True)
    compare(both_ways(flash_attention, fixed, visibility, given, extras), truth(fixed, visibility, given, extras))


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    check(MASKS[name], arrays())


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_MASKS)
def test_more_masks(name: str) -> None:
    check(MORE_MASKS[name], arrays())


def test_soft_cap_alibi_and_sinks() -> None:
    """All that changes scores, with values as wide as the merged layout asks for; some queries see only the sink."""
    slopes = jnp.exp2(-jnp.arange(1.0, 5.0))[None, :, None, None] * K_SLOTS / 8
    visibility = Visibility(K_SLOTS, high=Q_SLOTS - 100, **PADDING)
    check(visibility, arrays(dv=128), softcap=5.0, bias=slopes, sinks=jnp.array([-1.0, 0.5, 2.0, 9.0]))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 4, T, S), (B, 1, T, S), (B, 4, 1, S), (1, 1, T, 1)])
def test_a_bias_of_every_shape(shape: tuple[int, ...]) -> None:
    check(CAUSAL, arrays(), bias=jax.random.normal(jax.random.key(3), shape))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "kv", "d", "dv"), [(2, 2, 80, 80), (4, 1, 96, 96), (2, 1, 192, 128), (2, 1, 256, 256), (3, 3, 8, 16)]
)
def test_head_dimensions(heads: int, kv: int, d: int, dv: int) -> None:
    check(CAUSAL, arrays(heads, kv, d, dv))


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(1, 5), (128, 128), (5, 700), (513, 130)])
def test_lengths(lengths: tuple[int, int]) -> None:
    t, s = lengths
    q, k, v, grad, grad_lse = arrays()
    made = [jnp.resize(x, (B, n, *x.shape[2:])) for x, n in ((q, t), (k, s), (v, s), (grad, t))]
    visibility = Visibility(jnp.arange(s), high=jnp.arange(t) + s // 2)
    check(visibility, (*made, jnp.resize(grad_lse, (B, 4, t))))


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1.6), ("bfloat16", 0.8)])
def test_the_error_beside_that_of_the_plain_form(dtype: str, share: float) -> None:
    """Below it in bfloat16, since probabilities are rounded before they are divided; in float32 both only round."""
    visibility = Visibility(K_SLOTS, high=Q_SLOTS, **PADDING)
    given = tuple(x.astype(dtype) for x in arrays(dv=128)[:4]) + (jnp.zeros((B, 4, T)),)
    fixed = Settings(0.125, None, SMALL, interpret=True)
    seen = np.asarray(visible_array(visibility)).any(-1)
    # What the plain form gives to queries that see nothing means nothing.
    given = (*given[:3], given[3] * seen[..., None, None].astype(dtype), given[4])
    want = truth(fixed, visibility, given, {})
    errors = {}
    for name, attend in (("kernel", flash_attention), ("plain", plain)):
        got = both_ways(attend, fixed, visibility, given, {})
        out = np.where(seen[..., None, None], np.asarray(got.out, np.float64) - want.out, 0)
        differences = [out, *(np.asarray(getattr(got, x), np.float64) - getattr(want, x) for x in "qkv")]
        errors[name] = [float(np.sqrt((d**2).mean())) for d in differences]
    print(dtype, errors)
    for ours, theirs in zip(errors["kernel"], errors["plain"], strict=True):
        assert ours <= share * theirs


def test_extreme_scores() -> None:
    """Scores of +-1e4 choose one key each; queries that see nothing give zeros; nothing is NaN, gradients included."""
    q, k, v, grad, grad_lse = arrays()
    big = 1e4 * jnp.sign(k[..., :1]) * jnp.ones_like(k)
    given = (jnp.sign(q[..., :1]) * jnp.ones_like(q) / 8.0, big, v, grad, grad_lse)
    visibility = Visibility(K_SLOTS, high=Q_SLOTS - 60)
    fixed = Settings(0.125, None, SMALL, interpret=True)
    got = both_ways(flash_attention, fixed, visibility, given, {})
    want = truth(fixed, visibility, given, {})
    assert all(np.isfinite(x).all() for x in got if x is not None)
    np.testing.assert_allclose(got.out, want.out, atol=1e-5)
    # Next to 1e4 float32 steps by 1e-3, and a probability is exp(score - saved logarithm).
    np.testing.assert_allclose(got.v, want.v, atol=2e-3)
    blind = ~np.asarray(visible_array(visibility)).any(-1)[0]
    assert 0 < blind.sum() < T
    assert not np.asarray(got.out)[:, blind].any() and not np.asarray(got.q)[:, blind].any()


def test_hidden_blocks_are_not_read() -> None:
    """NaN in blocks of keys that no query sees harms nothing."""
    q, k, v, grad, grad_lse = arrays()
    far = (K_SLOTS >= 256)[None, :, None, None]
    nan = jnp.float32(jnp.nan)
    given = (q, jnp.where(far, nan, k), jnp.where(far, nan, v), grad, grad_lse)
    visibility = Visibility(K_SLOTS, high=jnp.minimum(Q_SLOTS, 255))
    fixed = Settings(0.125, None, SMALL, interpret=True)
    got = both_ways(flash_attention, fixed, visibility, given, {})
    assert np.isfinite(got.out).all() and np.isfinite(got.q).all()
    want = truth(fixed, visibility, (q, k, v, grad, grad_lse), {})
    np.testing.assert_allclose(got.out, want.out, atol=3e-6)
    np.testing.assert_allclose(np.asarray(got.v)[:, :256], want.v[:, :256], atol=3e-5)


def test_a_policy_may_keep_what_the_backward_pass_needs() -> None:
    q, k, v, *_ = arrays()
    fixed = Settings(0.125, None, SMALL, interpret=True)

    def kept(*names: str) -> list[tuple[int, ...]]:
        policy = jax.checkpoint_policies.save_only_these_names(*names)
        attend = jax.checkpoint(lambda q: flash_attention(q, k, v, CAUSAL, fixed)[0], policy=policy)
        shapes = jax.eval_shape(lambda q: jax.vjp(attend, q)[1], q)
        return sorted(x.shape for x in jax.tree.leaves(shapes) if x.dtype == jnp.float32)

    more = kept("context")
    for shape in kept():
        more.remove(shape)
    assert more == [(B, 4, T), (B, 4, T, 64)]


@pytest.mark.slow
def test_no_races() -> None:
    """Grid steps of axes called parallel, run on two cores in any order, never write what another one reads."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    q, k, v, grad, grad_lse = (x[:1, :260] if x.ndim == 4 else x[:1, :, :260] for x in arrays(2, 1, 8, 128))
    watched = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)
    fixed = Settings(0.3, None, Blocks((128, 128), (128, 128), (128, 128)), interpret=watched)
    visibility = Visibility(jnp.arange(260), high=jnp.arange(260))
    got = both_ways(flash_attention, fixed, visibility, (q, k, v, grad, grad_lse), {})
    jax.block_until_ready(got)
    assert not interpret_pallas_call.races.races_found
    compare(got, truth(fixed, visibility, (q, k, v, grad, grad_lse), {}))


@st.composite
def visibilities(draw) -> Visibility:
    """Any combination of rules for T queries and S keys."""
    shift = draw(st.integers(-300, 300))
    slots = Q_SLOTS + shift
    rules: dict = {}
    if draw(st.booleans()):
        rules["high"] = slots + draw(st.integers(-50, 200))
    if draw(st.booleans()):
        rules["low"] = slots - draw(st.integers(0, 200))
    if rules and draw(st.booleans()):
        rules["prefix"] = jnp.array(draw(st.lists(st.integers(0, S), min_size=B, max_size=B)))
    if draw(st.booleans()):
        first, last = draw(st.integers(0, S)), draw(st.integers(0, S))
        rules["keys"] = (K_SLOTS[None] >= first) & (K_SLOTS[None] <= jnp.array([[last], [S]]))
    if draw(st.booleans()):
        lengths = draw(st.lists(st.integers(20, 200), min_size=2, max_size=6))
        ends = jnp.cumsum(jnp.array(lengths))
        rules["k_segments"] = jnp.searchsorted(ends, K_SLOTS, side="right")[None]
        rules["q_segments"] = jnp.searchsorted(ends, slots, side="right")[None]
    return Visibility(slots=K_SLOTS, **rules)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(visibilities(), st.sampled_from([None, 20.0]), st.booleans())
def test_any_combination_of_rules(visibility: Visibility, softcap: float | None, sinks: bool) -> None:
    extras = {"sinks": jnp.array([0.5, -2.0])} if sinks else {}
    check(visibility, arrays(2, 1, 8, 8), softcap, **extras)
