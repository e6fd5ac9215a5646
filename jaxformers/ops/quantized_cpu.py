"""Products with quantised matrices on a CPU: a few outputs at a time, so that what is unpacked stays in the cache.

Unpacked whole, a matrix is written to memory and read again, and that takes ten times as long as the product.
"""

import math

import jax
import jax.numpy as jnp

from jaxformers.core.qtensor import QTensor
from jaxformers.core.sharding import mesh_in_use
from jaxformers.ops.dot import dot_transposed

OUTPUTS = 64  # of one block
FEW_NUMBERS = 2**18  # smaller matrices stay in the cache as they are


def in_blocks(x: jax.Array, w: QTensor) -> jax.Array:
    """x [...,in] times w's matrix along its inputs, in x's dtype."""
    check_worthwhile(w)
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    count = w.outputs // OUTPUTS
    # XLA copies and converts 8-bit floats one by one: from here on they are bytes.
    stored = jax.lax.bitcast_convert_type(w.values, jnp.uint8) if w.kind == "fp8" else w.values
    values = stored.reshape(count, OUTPUTS, -1)
    scale = w.scale.astype(jnp.float32).reshape(w.groups, count, OUTPUTS).transpose(1, 2, 0)
    # Blocks are unpacked again for the gradient: kept, they would be the whole matrix.
    one = jax.checkpoint(lambda block: block_product(flat, w, *block), prevent_cse=False)
    y = jax.lax.map(one, (values, scale))
    return jnp.moveaxis(y, 0, 1).reshape(*x.shape[:-1], w.outputs).astype(x.dtype)


def check_worthwhile(w: QTensor) -> None:
    """Raise NotImplementedError where blocks would not help."""
    mesh = mesh_in_use()
    if mesh is not None and math.prod(mesh.shape.values()) > 1:
        raise NotImplementedError("the matrix is spread over a mesh, and blocks would gather it")
    if w.size < FEW_NUMBERS or w.outputs % OUTPUTS:
        found = f"{w.outputs} x {w.inputs} numbers"
        raise NotImplementedError(f"{found}; takes {FEW_NUMBERS} and more, by {OUTPUTS} outputs")


def block_product(x: jax.Array, w: QTensor, values: jax.Array, scale: jax.Array) -> jax.Array:
    """x [T,in] times a block: values [outputs,in], scale [outputs,groups] -> [T,outputs]."""
    if w.span:
        return int4_product(x, w, values, scale)
    if w.groups == 1:
        return dot_transposed(x, floats(values)) * scale[:, 0]
    return dot_transposed(x, scaled(floats(values), scale))


def int4_product(x: jax.Array, w: QTensor, values: jax.Array, scale: jax.Array) -> jax.Array:
    """The low and the high halves of bytes have inputs of their own, and each half is multiplied with those."""
    bits = values.astype(jnp.int32)
    halves = x.reshape(len(x), -1, 2, w.span // 2)
    total = jnp.zeros((), jnp.float32)
    for half, left in ((0, 28), (1, 24)):
        part = jax.lax.shift_right_arithmetic(bits << left, 28).astype(jnp.float32)
        own = scale[:, half::2] if w.span == 2 * w.group_size else scale
        total += dot_transposed(halves[:, :, half].reshape(len(x), -1), scaled(part, own))
    return total


def scaled(values: jax.Array, scale: jax.Array) -> jax.Array:
    """Values [outputs,in] times their groups' scales [outputs,groups]."""
    return (values.reshape(*scale.shape, -1) * scale[..., None]).reshape(values.shape)


def floats(values: jax.Array) -> jax.Array:
    """Int8, or the bytes of float8_e4m3fn, as float32."""
    if values.dtype == jnp.int8:
        return values.astype(jnp.float32)
    bits = values.astype(jnp.uint16)  # they are those of a float16 that is 256 times smaller
    half = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
    return jax.lax.bitcast_convert_type(half, jnp.float16).astype(jnp.float32) * 256.0
