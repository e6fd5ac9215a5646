"""Rows sorted by expert times each expert's own kernel; the experts' gradient on TPUs is a kernel of this library."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.ops.dispatch import Op, target_platform
from jaxformers.ops.dot import precision


def ragged_product(x: jax.Array, kernels: jax.Array, sizes: jax.Array) -> jax.Array:
    """x [M,in] whose first sizes[0] rows are the first expert's and so on, kernels [E,in,out] -> [M,out].

    Rows beyond the sum of the sizes are nobody's, and what is computed for them is not defined.
    """
    return jax.lax.ragged_dot(x, kernels, sizes, precision=precision(x, kernels))


grouped_product = Op("grouped_product", ragged_product)


@grouped_product.register("grouped_tpu", platforms=("tpu",), priority=10)
def grouped_tpu(x: jax.Array, kernels: jax.Array, sizes: jax.Array) -> jax.Array:
    """`ragged_product`, whose gradient for the kernels costs one product and not one for each expert."""
    if x.dtype not in (jnp.float32, jnp.bfloat16) or x.dtype != kernels.dtype:
        raise NotImplementedError(
            f"x and kernels are {x.dtype} and {kernels.dtype}; takes bfloat16 or float32 for both"
        )
    return product(target_platform() != "tpu", x, kernels, sizes)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(interpret: bool, x: jax.Array, kernels: jax.Array, sizes: jax.Array) -> jax.Array:
    """The product itself, which XLA has a kernel for on TPUs."""
    return ragged_product(x, kernels, sizes)


def product_and_kept(interpret: bool, x: jax.Array, kernels: jax.Array, sizes: jax.Array) -> tuple[jax.Array, Any]:
    """The product, and what gradients need."""
    return ragged_product(x, kernels, sizes), (x, kernels, sizes)


def product_backward(interpret: bool, kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    """Gradients of the rows and of the kernels."""
    from jaxformers.kernels.experts.weight_gradient_tpu import Settings, weight_gradient

    x, kernels, sizes = kept
    d_x = ragged_product(grad, jnp.swapaxes(kernels, 1, 2), sizes)
    return d_x, weight_gradient(x, grad, sizes, Settings(interpret=interpret), kernels.dtype), None


product.defvjp(product_and_kept, product_backward)
