"""The gradient of experts' kernels against float64, interpreted: uneven loads, experts without rows, rows of nobody."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.kernels.experts.weight_gradient_tpu import Settings, walk, weight_gradient
from jaxformers.ops.dispatch import use, watch_calls
from jaxformers.ops.grouped_product import grouped_product
from jaxformers.ops.moe_forms import Stacked, dense, ragged

LOADS = {
    "even": [100, 100, 100],
    "some have none": [0, 130, 0, 0, 170, 0],
    "all one's": [0, 0, 300, 0],
    "nobody's rows": [20, 0, 129, 1],
    "nobody has any": [0, 0],
    "many in one block": [3] * 40,
}


def problem(sizes: list[int], dtype=np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, their gradients, and the truth in float64; rows of nobody hold NaN."""
    rng = np.random.RandomState(sum(sizes))
    x, grad = rng.randn(300, 20).astype(dtype), rng.randn(300, 150).astype(dtype)
    ends = np.cumsum(sizes)
    parts = [
        (x[e - n : e].astype(np.float64).T @ grad[e - n : e].astype(np.float64))
        for e, n in zip(ends, sizes, strict=True)
    ]
    x[ends[-1] :], grad[ends[-1] :] = np.nan, np.nan
    return x, grad, np.stack(parts)


@pytest.mark.parametrize("name", LOADS)
def test_equals_the_truth(name: str) -> None:
    """Several blocks of rows and of outputs; every expert has its own rows, and those without have zeros."""
    x, grad, expected = problem(LOADS[name])
    settings = Settings(rows=128, inputs=128, outputs=128, interpret=True)
    found = weight_gradient(jnp.asarray(x), jnp.asarray(grad), jnp.array(LOADS[name]), settings, jnp.float32)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_bfloat16_is_summed_in_float32() -> None:
    """Products of 16-bit numbers are exact in float32, and rounded once at the end."""
    x, grad, expected = problem(LOADS["even"], jnp.bfloat16)
    settings = Settings(rows=128, interpret=True)
    found = weight_gradient(jnp.asarray(x), jnp.asarray(grad), jnp.array(LOADS["even"]), settings, jnp.bfloat16)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("name", LOADS)
def test_the_walk_goes_through_every_block_once_for_each_owner(name: str) -> None:
    sizes = jnp.array(LOADS[name])
    steps = walk(sizes, 3, 128)
    count = int(steps.count[0])
    pairs = list(zip(np.asarray(steps.expert)[:count], np.asarray(steps.block)[:count], strict=True))
    ends = np.cumsum(LOADS[name])
    expected = {
        (e, b)
        for e, n in enumerate(LOADS[name])
        for b in range(3)
        if n and b * 128 < ends[e] and (b + 1) * 128 > ends[e] - n
    }
    assert len(set(pairs)) == len(pairs) and expected <= set(pairs)
    assert {e for e, _ in pairs} == set(range(len(LOADS[name]))) and pairs == sorted(pairs)
    assert len(pairs) - len(expected) == LOADS[name].count(0)


def test_a_mixture_with_the_kernel() -> None:
    """Gradients of a whole mixture are the dense form's, the kernel is what ran, and other dtypes are refused."""
    rng = np.random.RandomState(0)
    x, scores = rng.randn(30, 8).astype(np.float32), rng.rand(30, 2).astype(np.float32)
    index = rng.randint(0, 5, (30, 2))
    weights = (
        Stacked(jnp.asarray(rng.randn(5, 8, 12), jnp.float32)),
        Stacked(jnp.asarray(rng.randn(5, 12, 8), jnp.float32)),
    )

    def ffn(rows, product, weights):
        return product(jnp.tanh(product(rows, weights[0])), weights[1])

    def loss(form, x, scores, weights):
        return jnp.sin(form(x, index, scores, ffn, weights, experts=5)).sum()

    expected = jax.grad(lambda *a: loss(dense, *a), (0, 1, 2))(x, scores, weights)
    with use(grouped_product="grouped_tpu"), watch_calls() as calls:
        found = jax.grad(lambda *a: loss(ragged, *a), (0, 1, 2))(x, scores, weights)
    assert [call.chosen for call in calls if call.op == "grouped_product"] == ["grouped_tpu"] * 2
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    half = jnp.ones((4, 8), jnp.float16), jnp.ones((2, 8, 4), jnp.float16), jnp.array([2, 2])
    with use(grouped_product=("grouped_tpu", "reference")), watch_calls() as calls:
        grouped_product(*half)
    assert calls[0].chosen == "reference" and "float16" in calls[0].refused["grouped_tpu"]
