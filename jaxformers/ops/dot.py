"""Matrix products whose float32 form is float32 on every device."""

import jax
import jax.numpy as jnp

from jaxformers.core.sharding import mesh_in_use
from jaxformers.ops.dispatch import target_platform


def precision(*arrays: jax.Array) -> jax.lax.Precision | None:
    """HIGHEST for float32 operands, which GPUs and TPUs would round to fewer bits.

    None when `jax_default_matmul_precision` is set: then the user has chosen.
    """
    if jax.config.jax_default_matmul_precision is not None:
        return None
    wide = all(x.dtype in (jnp.float32, jnp.float64) for x in arrays)
    return jax.lax.Precision.HIGHEST if wide else None


def dot(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., D] times w [D, F]."""
    rows = as_rows(x)
    return jnp.dot(rows, w, precision=precision(x, w)).reshape(*x.shape[:-1], w.shape[1])


def dot_transposed(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., D] times the transpose of w [F, D]."""
    rows = as_rows(x)
    y = jax.lax.dot_general(rows, w, (((rows.ndim - 1,), (1,)), ((), ())), precision=precision(x, w))
    return y.reshape(*x.shape[:-1], w.shape[0])


def as_rows(x: jax.Array) -> jax.Array:
    """x as a matrix on a CPU, else as it is: a mesh may have cut several of its axes.

    XLA's CPU compiler turns what has more axes around before it multiplies for a weight's gradient, element by element.
    """
    alone = x.ndim > 2 and target_platform() == "cpu" and mesh_in_use() is None
    return x.reshape(-1, x.shape[-1]) if alone else x


def einsum(subscripts: str, *arrays: jax.Array) -> jax.Array:
    """`jnp.einsum` at full float32 precision."""
    return jnp.einsum(subscripts, *arrays, precision=precision(*arrays))
