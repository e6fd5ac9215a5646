"""Low-rank updates where modules read them: the collection `lora` holds a, b and scale at the path of a weight.

Modules know nothing else of adapters. Where the collection has nothing for a module, nothing changes.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.adapter import LORA
from jaxformers.ops.dot import dot, dot_transposed

Axes = tuple[str | None, str | None]


def adapted(module: nn.Module, inputs: int, outputs: int, axes: Axes) -> bool:
    """Whether an adapter lies at this module. While shapes are traced for them, say that one may, and of which shapes.

    axes: the logical names of (inputs, outputs).
    """
    if not module.is_mutable_collection(LORA) or module.is_initializing():
        return module.has_variable(LORA, "a")
    shapes = {"a": ((1, inputs), (None, axes[0])), "b": ((outputs, 1), (axes[1], None))}
    for name, (shape, names) in shapes.items():
        module.put_variable(LORA, name, nn.LogicallyPartitioned(jnp.zeros(shape), names))
    return False


def declare_tied(module: nn.Module) -> None:
    """Say that a table is read backwards as well: what an adapter adds to its rows is not meant for that."""
    if module.is_mutable_collection(LORA) and not module.is_initializing():
        module.put_variable(LORA, "tied", jnp.zeros(()))


def read(module: nn.Module, name: str) -> jax.Array:
    """An array of the module's adapter."""
    return nn.meta.unbox(module.get_variable(LORA, name))


def low_rank(module: nn.Module, x: jax.Array, y: jax.Array, axes: Axes) -> jax.Array:
    """y + scale * (x A^T) B^T where the module has an adapter, else y. x [...,in], y [...,out].

    Computed in the adapter's own precision, which is often more than the weights'.
    """
    if not adapted(module, x.shape[-1], y.shape[-1], axes):
        return y
    return (y + dot_transposed(narrow(module, x), read(module, "b"))).astype(y.dtype)


def low_rank_factors(module: nn.Module, x: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """h and M with h M^T = x matrix^T + scale * (x A^T) B^T, for who multiplies in another way. matrix [out,in]."""
    if not module.has_variable(LORA, "a"):
        return x, matrix
    h, b = narrow(module, x).astype(x.dtype), read(module, "b").astype(matrix.dtype)
    return jnp.concatenate([x, h], axis=-1), jnp.concatenate([matrix, b], axis=-1)


def narrow(module: nn.Module, x: jax.Array) -> jax.Array:
    """scale * x A^T, [...,rank]; x is dropped out where a key for `lora` is given."""
    a = read(module, "a")
    h = x.astype(a.dtype)
    if module.has_variable(LORA, "rate") and module.has_rng(LORA):
        kept = 1.0 - read(module, "rate")
        h = jnp.where(jax.random.bernoulli(module.make_rng(LORA), kept, h.shape), h / kept.astype(h.dtype), 0)
    return dot_transposed(h, a) * read(module, "scale").astype(a.dtype)


def low_rank_rows(module: nn.Module, ids: jax.Array, rows: jax.Array, axes: Axes, size: int) -> jax.Array:
    """rows + scale * B A[:, ids] where a table [size,width] has an adapter; rows [...,width] are what ids chose.

    axes: the logical names of (size, width). As in peft, tables know no dropout.
    """
    if not adapted(module, size, rows.shape[-1], axes):
        return rows
    a = jnp.moveaxis(jnp.take(read(module, "a"), ids, axis=1), 0, -1)
    update = dot_transposed(a, read(module, "b")) * read(module, "scale").astype(a.dtype)
    return (rows + update).astype(rows.dtype)


def updated(module: nn.Module, kernel: jax.Array, axes: Axes) -> jax.Array:
    """A kernel [in,out] with its adapter added, for modules that use the kernel itself."""
    if not adapted(module, *kernel.shape, axes):
        return kernel
    a, b = read(module, "a"), read(module, "b")
    return (kernel + dot(a.T, b.T) * read(module, "scale").astype(a.dtype)).astype(kernel.dtype)
