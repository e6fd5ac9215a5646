"""Every implementation of attention against the reference, and the reference against the formula written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers.ops.attention as module
from jaxformers.core.mask import Mask
from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import use_mesh
from jaxformers.ops.attention import attention, row_by_row
from jaxformers.ops.dispatch import use

T, S = 7, 9
KEYS = jnp.array([[1] * S, [0] * 3 + [1] * (S - 3)], bool)
MASKS = {
    "full": Mask(),
    "causal": Mask.causal(),
    "window": Mask.causal().within(3),
    "around": Mask().around(2),
    "padding": Mask.causal(KEYS),
    "prefix": Mask(right=0, prefix=jnp.array([4, 2])),
    "segments": Mask(q_segments=jnp.arange(T)[None] // 3, k_segments=jnp.arange(S)[None] // 3),
    "dense": Mask(dense=jax.random.bernoulli(jax.random.key(9), 0.7, (2, 1, T, S)).at[..., 0].set(True)),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU form take few queries; BLOCK stays, so that one block holds them all."""
    monkeypatch.setattr(module, "FEW", 0)


def arrays(heads: int, kv: int, dtype: str = "float32") -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, T, heads, 8), (2, S, kv, 8), (2, S, kv, 6)]
    return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))  # type: ignore[return-value]


def slots() -> dict:
    return {"q_slots": jnp.arange(T) + S - T, "k_slots": jnp.arange(S), "scale": 0.3}


def written_out(q, k, v, mask: Mask, scale: float) -> np.ndarray:
    """One query and head at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    visible = mask.array(slots()["q_slots"], slots()["k_slots"])
    visible = np.ones((2, 1, T, S), bool) if visible is None else np.broadcast_to(np.asarray(visible), (2, 1, T, S))
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    group = q.shape[2] // k.shape[2]
    for b in range(2):
        for h in range(q.shape[2]):
            for t in range(T):
                seen = visible[b, 0, t]
                if not seen.any():
                    continue
                s = k[b, seen, h // group] @ q[b, t, h] * scale
                p = np.exp(s - s.max())
                out[b, t, h] = (p / p.sum()) @ v[b, seen, h // group]
    return out


def rows_that_see(mask: Mask) -> np.ndarray:
    """Queries that see any key; what the others get means nothing."""
    visible = mask.array(slots()["q_slots"], slots()["k_slots"])
    return np.ones((2, T), bool) if visible is None else np.broadcast_to(np.asarray(visible).any(-1)[:, 0], (2, T))


@pytest.mark.parametrize("kv", [4, 2, 1])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("kind", ["reference", "cpu"])
def test_values(kind: str, name: str, kv: int) -> None:
    q, k, v = arrays(4, kv)
    with use(attention=kind):
        got = attention(q, k, v, MASKS[name], **slots())
    want, rows = written_out(q, k, v, MASKS[name], 0.3), rows_that_see(MASKS[name])
    np.testing.assert_allclose(np.asarray(got)[rows], want[rows], atol=2e-6)


@pytest.mark.parametrize("name", MASKS)
def test_gradients_agree(name: str) -> None:
    q, k, v = arrays(4, 2)
    weights = jnp.asarray(rows_that_see(MASKS[name]))[..., None, None]

    def total(kind: str):
        def f(q, k, v):
            with use(attention=kind):
                return jnp.sum(jnp.sin(attention(q, k, v, MASKS[name], **slots())) * weights)

        return jax.grad(f, (0, 1, 2))(q, k, v)

    for a, b in zip(total("cpu"), total("reference"), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("kind", ["reference", "cpu"])
def test_extreme_scores_stay_finite(kind: str) -> None:
    q, k, v = arrays(2, 2)
    with use(attention=kind):
        out = attention(q * 1e4, k * 1e4, v, Mask.causal(jnp.zeros((2, S), bool)), **slots())
        grads = jax.grad(lambda q: attention(q, k * 1e4, v, Mask.causal(), **slots()).sum())(q * 1e4)
    assert np.isfinite(out).all() and np.isfinite(grads).all()


@pytest.mark.parametrize("bias", [(1, 4, T, S), (2, 4, 1, S), (2, 1, T, S)])
def test_bias_and_softcap_of_the_cpu_form(bias: tuple[int, ...]) -> None:
    q, k, v = arrays(4, 2)
    extra = {"softcap": 5.0, "bias": jax.random.normal(jax.random.key(3), bias)}
    for mask in (Mask(), MASKS["padding"], MASKS["dense"]):
        with use(attention="reference"):
            want = attention(q, k, v, mask, **slots(), **extra)
        rows = rows_that_see(mask)
        got = row_by_row(q, k, v, mask, **slots(), **extra)
        np.testing.assert_allclose(np.asarray(got)[rows], np.asarray(want)[rows], atol=2e-6)


@pytest.mark.parametrize("batch", [1, 2])
def test_many_queries_run_in_blocks(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 1)  # blocks of 128 queries
    q, k, v = (jax.random.normal(jax.random.key(i), (batch, 300, 2, 4)) for i in range(3))
    at = {"q_slots": jnp.arange(300), "k_slots": jnp.arange(300), "scale": 0.5}
    keys = jnp.arange(300)[None] >= jnp.arange(batch)[:, None] * 50
    bias = jax.random.normal(jax.random.key(3), (1, 2, 1, 300))

    def total(call, q):
        out = call(q, k, v, Mask.causal(keys).within(70), bias=bias, **at)
        return jnp.sum(jnp.where(keys[..., None, None], out, 0.0) ** 2)

    reference = module.reference
    np.testing.assert_allclose(total(row_by_row, q), total(reference, q), rtol=1e-5)
    grads = [jax.grad(lambda q, f=f: total(f, q))(q) for f in (row_by_row, reference)]
    np.testing.assert_allclose(*grads, atol=1e-5)


def test_what_the_cpu_form_cannot_do_falls_through() -> None:
    q, k, v = arrays(4, 2)
    with pytest.raises(NotImplementedError, match="sinks"):
        row_by_row(q, k, v, Mask(), **slots(), sinks=jnp.ones(4))
    with use(attention="reference"):
        want = attention(q, k, v, Mask(), **slots(), sinks=jnp.ones(4))
    np.testing.assert_array_equal(attention(q, k, v, Mask(), **slots(), sinks=jnp.ones(4)), want)
    with use_mesh(make_mesh(data=8)), pytest.raises(NotImplementedError, match="mesh"):
        row_by_row(q, k, v, Mask(), **slots())


def test_a_forced_implementation_that_refuses_is_an_error() -> None:
    q, k, v = arrays(4, 2)
    with use(attention="cpu"), pytest.raises(ValueError, match="told to use 'cpu', which refused"):
        attention(q, k, v, Mask(), **slots(), sinks=jnp.ones(4))
    with use(attention="flash"), pytest.raises(ValueError, match="unknown"):
        attention(q, k, v, Mask(), **slots())
