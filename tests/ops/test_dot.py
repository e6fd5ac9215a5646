"""Products with more axes than two: values, gradients and directional derivatives of the plain forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.ops.dot import dot, dot_transposed


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_products_of_batches(shape: tuple[int, ...]):
    keys = jax.random.split(jax.random.key(0), 2)
    x, w = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (5, 4))
    for mine, weights in ((dot, w), (dot_transposed, w.T)):
        want = np.array(x) @ np.array(w)
        np.testing.assert_allclose(mine(x, weights), want, atol=1e-5)
        moved = jax.jvp(mine, (x, weights), (2 * x, 0 * weights))[1]
        np.testing.assert_allclose(moved, 2 * want, atol=1e-5)
        found = jax.grad(lambda x, w, f=mine: jnp.sin(f(x, w)).sum(), (0, 1))(x, weights)
        slope = np.cos(want)
        of_w = np.reshape(x, (-1, 5)).T @ slope.reshape(-1, 4)
        np.testing.assert_allclose(found[0], slope @ np.array(w).T, atol=1e-5)
        np.testing.assert_allclose(found[1], of_w if mine is dot else of_w.T, atol=1e-5)
