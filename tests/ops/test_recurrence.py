"""Recurrences: chunks equal steps, a state carries over a cut, and the values are those of a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.ops.dispatch import use
from jaxformers.ops.recurrence import (
    dual_chunks,
    dual_steps,
    selective_chunks,
    selective_scan,
    selective_steps,
    state_space_dual,
)


def selective_problem(length: int, batch: int = 2, width: int = 3, states: int = 4) -> tuple[np.ndarray, ...]:
    rng = np.random.RandomState(length)

    def some(*shape: int) -> np.ndarray:
        return rng.randn(*shape).astype(np.float32)

    x, dt, a = some(batch, length, width), np.abs(some(batch, length, width)), -np.abs(some(width, states))
    return x, dt, a, some(batch, length, states), some(batch, length, states), some(batch, width, states)


def dual_problem(length: int, heads: int = 4, groups: int = 2, dim: int = 3, states: int = 5) -> tuple[np.ndarray, ...]:
    rng = np.random.RandomState(length)

    def some(*shape: int) -> np.ndarray:
        return rng.randn(*shape).astype(np.float32)

    x, dt, a = some(2, length, heads, dim), np.abs(some(2, length, heads)), -np.abs(some(heads))
    return x, dt, a, some(2, length, groups, states), some(2, length, groups, states), some(2, heads, dim, states)


def close(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("length", [1, 5, 13])
def test_selective_by_hand(length: int) -> None:
    """y[t] = sum of c h[t] over the states, h[t] = exp(dt a) h[t-1] + dt x b."""
    x, dt, a, b, c, h = (z.astype(np.float64) for z in selective_problem(length))
    y = []
    for t in range(length):
        h = np.exp(dt[:, t, :, None] * a) * h + (dt * x)[:, t, :, None] * b[:, t, None]
        y.append((h * c[:, t, None]).sum(-1))
    close(selective_steps(*selective_problem(length)), (np.stack(y, 1), h))


@pytest.mark.parametrize("length", [1, 5, 13])
def test_dual_by_hand(length: int) -> None:
    """The same with one decay for each head and b, c for each group."""
    x, dt, a, b, c, h = (z.astype(np.float64) for z in dual_problem(length))
    b, c = np.repeat(b, 2, axis=2), np.repeat(c, 2, axis=2)
    y = []
    for t in range(length):
        h = np.exp(dt[:, t] * a)[..., None, None] * h + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]
        y.append((h * c[:, t, :, None]).sum(-1))
    close(dual_steps(*dual_problem(length), size=4), (np.stack(y, 1), h))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_chunks_equal_steps(length: int, size: int) -> None:
    """For lengths that do and do not divide into chunks."""
    close(selective_chunks(*selective_problem(length), size), selective_steps(*selective_problem(length)))
    given = dual_problem(length)
    close(dual_chunks(*given, size=size), dual_steps(*given, size=size))


def test_same_gradients() -> None:
    """With respect to every input, the state included."""
    given, other = selective_problem(11), dual_problem(11)

    def loss(scan, *args):
        y, state = scan(*args)
        return (jnp.sin(y)).sum() + (state**2).sum()

    pairs = [
        (given, selective_steps, lambda *a: selective_chunks(*a, 4)),
        (other, lambda *a: dual_steps(*a, size=4), lambda *a: dual_chunks(*a, size=4)),
    ]
    for args, steps, chunks in pairs:
        expected = jax.grad(lambda *a, f=steps: loss(f, *a), argnums=range(6))(*args)
        got = jax.grad(lambda *a, f=chunks: loss(f, *a), argnums=range(6))(*args)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", [1, 9, 19])
def test_state_carries_over(cut: int) -> None:
    """Two calls, the state handed on, equal one."""
    for given, op in (
        (selective_problem(20), selective_scan),
        (dual_problem(20), lambda *a: state_space_dual(*a, size=4)),
    ):
        x, dt, a, b, c, h = given
        y1, h = op(x[:, :cut], dt[:, :cut], a, b[:, :cut], c[:, :cut], h)
        y2, h = op(x[:, cut:], dt[:, cut:], a, b[:, cut:], c[:, cut:], h)
        close((jnp.concatenate([y1, y2], axis=1), h), op(*given))


def test_extreme_steps_stay_finite() -> None:
    """Steps so long that the state forgets everything give no NaN, nor do their gradients."""
    x, dt, a, b, c, h = dual_problem(12)

    def loss(dt):
        y, state = dual_chunks(x, dt, a * 100, b, c, h, size=8)
        return y.sum() + state.sum()

    value, grad = jax.value_and_grad(loss)(dt * 100)
    assert np.isfinite(value) and np.isfinite(np.asarray(grad)).all()


def test_half_precision_is_computed_in_float32() -> None:
    """bfloat16 inputs are widened first."""
    given = [jnp.asarray(z, jnp.bfloat16) for z in selective_problem(20)]
    y, state = selective_scan(*given)
    assert y.dtype == state.dtype == jnp.float32
    with use(selective_scan="reference"):
        close(selective_scan(*given), (y, state))
