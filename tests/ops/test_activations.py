"""GELU with a derivative of its own: values and derivatives of the plain formula, also where dtypes are narrow."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.ops.activations import gelu


def plain(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def test_gelu_and_its_derivatives():
    x = jnp.linspace(-6, 6, 201)
    np.testing.assert_allclose(gelu(x), plain(x), atol=1e-6)
    for mine, other in ((gelu, plain), (jax.grad(gelu), jax.grad(plain))):
        both = [jax.jit(jax.vmap(jax.value_and_grad(f)))(x) for f in (mine, other)]
        np.testing.assert_allclose(both[0], both[1], atol=2e-6)
    _, moved = jax.jvp(gelu, (x,), (2.0 * jnp.ones_like(x),))
    np.testing.assert_allclose(moved, 2.0 * jax.vmap(jax.grad(plain))(x), atol=2e-6)


def test_gelu_in_bfloat16_is_the_exact_one_rounded():
    x = jnp.linspace(-4, 4, 201).astype(jnp.bfloat16)
    exact = plain(x.astype(jnp.float32))
    assert gelu(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(gelu(x), exact.astype(jnp.bfloat16))
