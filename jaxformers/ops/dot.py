"""Matrix products whose float32 form is float32 on every device."""

import jax
import jax.numpy as jnp


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
    return jnp.dot(x, w, precision=precision(x, w))


def dot_transposed(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., D] times the transpose of w [F, D]."""
    return jax.lax.dot_general(x, w, (((x.ndim - 1,), (1,)), ((), ())), precision=precision(x, w))


def einsum(subscripts: str, *arrays: jax.Array) -> jax.Array:
    """`jnp.einsum` at full float32 precision."""
    return jnp.einsum(subscripts, *arrays, precision=precision(*arrays))
