"""Mixtures of experts: every way to compute one equals the plain sum over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxformers.core.sharding import use_mesh
from jaxformers.ops.dispatch import use
from jaxformers.ops.moe import load_balance, moe
from jaxformers.ops.moe_forms import Stacked, dense, grouped, ragged

WAYS = {"dense": dense, "grouped": grouped, "ragged": ragged}


def problem(tokens: int, experts: int, top_k: int, width: int = 5, inner: int = 7):
    """Random tokens, choices, scores and biased gated experts."""
    rng = np.random.RandomState(tokens * 100 + experts)
    x = rng.randn(tokens, width).astype(np.float32)
    index = np.stack([rng.permutation(experts)[:top_k] for _ in range(tokens)])
    scores = rng.rand(tokens, top_k).astype(np.float32)
    up, bias = rng.randn(experts, width, inner).astype(np.float32), rng.randn(experts, inner).astype(np.float32)
    return x, index, scores, up, bias, rng.randn(experts, inner, width).astype(np.float32)


def run(way, x, index, scores, up, bias, down) -> jax.Array:
    weights = (Stacked(up, bias, ("embed", "mlp")), Stacked(down, None, ("mlp", "embed")))
    return way(x, jnp.asarray(index), scores, ffn, weights, experts=len(up))


def ffn(rows, product, weights):
    up, down = weights
    return product(jnp.tanh(product(rows, up)), down)


def by_hand(x, index, scores, up, bias, down) -> np.ndarray:
    out = np.zeros_like(x, dtype=np.float64)
    for n in range(len(x)):
        for e, s in zip(index[n], scores[n], strict=True):
            out[n] += s * (np.tanh(x[n] @ up[e] + bias[e]) @ down[e])
    return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(1, 8, 2), (3, 8, 2), (37, 4, 3), (300, 2, 1), (19, 1, 1), (5, 64, 6), (290, 2, 2)]
)
def test_same_values(way: str, tokens: int, experts: int, top_k: int) -> None:
    """Sizes that divide no block, experts that nobody chose, and one expert alone."""
    given = problem(tokens, experts, top_k)
    np.testing.assert_allclose(run(WAYS[way], *given), by_hand(*given), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("way", ["grouped", "ragged"])
def test_all_tokens_on_one_expert(way: str) -> None:
    """The worst imbalance loses no token."""
    x, _, scores, *rest = problem(50, 6, 1)
    given = (x, np.full((50, 1), 4), scores, *rest)
    np.testing.assert_allclose(run(WAYS[way], *given), by_hand(*given), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("way", ["grouped", "ragged"])
@pytest.mark.parametrize("tokens", [1, 23, 70])
def test_same_gradients(way: str, tokens: int) -> None:
    """With respect to tokens, scores, kernels and biases."""
    x, index, scores, *rest = problem(tokens, 5, 2)
    target = np.random.RandomState(0).randn(*x.shape)

    def loss(way, x, scores, *rest):
        return (run(way, x, index, scores, *rest) * target).sum()

    expected = jax.grad(lambda *a: loss(WAYS["dense"], *a), argnums=(0, 1, 2, 3, 4))(x, scores, *rest)
    got = jax.grad(lambda *a: loss(WAYS[way], *a), argnums=(0, 1, 2, 3, 4))(x, scores, *rest)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_choice_by_size() -> None:
    """Many large experts are grouped, few or small ones are not; a choice may be forced."""
    asked = []

    def ffn(rows, product, weights):
        asked.append(rows.shape)
        return product(rows, weights[0])

    def call(experts: int, inner: int):
        x, index, scores = jnp.ones((64, 4)), jnp.zeros((64, 2), jnp.int32), jnp.ones((64, 2))
        kernels = (Stacked(jnp.ones((experts, 4, 4))), Stacked(jnp.ones((experts, 4, inner))))
        moe(x, index, scores, ffn, kernels, experts=experts)
        return asked.pop()

    assert call(8, 2**14) == (16, 4)
    assert call(8, 4) == (64, 4)
    assert call(3, 2**14) == (64, 4)
    with use_mesh(Mesh(np.asarray([jax.devices()[0]]), ("data",))):
        assert call(8, 2**14) == (16, 4), "a mesh of one device spreads nothing"
    with use(moe="reference"):
        assert call(8, 2**14) == (64, 4)


def test_even_load_costs_least() -> None:
    """The balancing loss is top_k for an even router and grows when one expert gets everything."""
    even = jnp.eye(4).repeat(3, axis=0) * 50
    skewed = jnp.zeros((12, 4)).at[:, 1].set(50.0)
    assert abs(float(load_balance((even,), 1)) - 1.0) < 1e-5
    assert abs(float(load_balance((skewed,), 1)) - 4.0) < 1e-5
    real = jnp.arange(12) < 3
    assert abs(float(load_balance((even, even), 1, real)) - 4.0) < 1e-5, "only the real tokens count"
