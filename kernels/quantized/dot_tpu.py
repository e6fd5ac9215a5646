"""x times a quantised matrix on TPUs: small values are read from memory, turned into floats in fast memory, multiplied.

Integers of 8 bits and floats of 8 bits are exact in bfloat16, so scales are applied to sums over a group and not to the
values: nothing is rounded that the stored matrix does not round.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.quantized.blocks import Piece, Plan

ROWS = 256  # of x in a block
OUTPUTS = 256  # of W in a block; a multiple of 32, the rows of a tile of bytes


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def quantized_dot(plan: Plan, interpret: bool, x: jax.Array, values: jax.Array, scale: jax.Array) -> jax.Array:
    """x [T,D] times W^T [D,F] in x's dtype; values [F,D] (int4: [F,D/2]), scale [groups,F]. Only x has a gradient."""
    rows = min(ROWS, x.shape[0]) if x.dtype == jnp.bfloat16 else min(ROWS // 2, x.shape[0])
    outputs = min(OUTPUTS, plan.outputs)
    kernel = partial(forward_kernel, plan)
    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(x.shape[0], rows), pl.cdiv(plan.outputs, outputs), plan.inputs // plan.depth),
        in_specs=[
            pl.BlockSpec((rows, plan.depth), lambda t, f, d: (t, d)),
            pl.BlockSpec((outputs, plan.stored), lambda t, f, d: (f, d)),
            pl.BlockSpec((plan.groups, outputs), lambda t, f, d: (0, f)),
        ],
        out_specs=pl.BlockSpec((rows, outputs), lambda t, f, d: (t, f)),
        out_shape=jax.ShapeDtypeStruct((x.shape[0], plan.outputs), x.dtype),
        scratch_shapes=[pltpu.VMEM((rows, outputs), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="jaxformers_quantized_dot",
    )(x, values, scale.astype(jnp.float32))


def forward_kernel(plan: Plan, x, values, scale, out, total) -> None:
    """One block of inputs; `total` sums over them."""
    depth = pl.program_id(2)

    @pl.when(depth == 0)
    def begin() -> None:
        total[...] = jnp.zeros_like(total)

    for piece in plan.pieces():
        part = product(x[:, piece.inputs], floats(values, piece, x.dtype), (1, 1))
        total[...] += part if plan.rows == 0 else part * scale_row(scale, plan, piece, depth)

    @pl.when(depth == pl.num_programs(2) - 1)
    def end() -> None:
        whole = total[...] * scale[...] if plan.rows == 0 else total[...]
        out[...] = whole.astype(out.dtype)


def scale_row(scale, plan: Plan, piece: Piece, depth: jax.Array) -> jax.Array:
    """The scales [1,F] of a piece."""
    return scale[pl.ds(depth * plan.rows + piece.row, 1), :]


def floats(values, piece: Piece, dtype) -> jax.Array:
    """The values of a piece [F,inputs], exact in `dtype`."""
    found = values[:, piece.stored]
    if found.dtype == jnp.uint8:
        # Shifted left until the four bits stand highest, then right again: the sign comes down with them.
        found = jax.lax.shift_right_arithmetic(found.astype(jnp.int32) << (28 - piece.shift), 28)
    return found.astype(jnp.float32).astype(dtype)


def product(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """A product in float32; float32 operands keep their precision."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dims = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=exact, preferred_element_type=jnp.float32)


def forward_and_save(plan: Plan, interpret: bool, x: jax.Array, values: jax.Array, scale: jax.Array):
    """The product, and what x's gradient needs."""
    return quantized_dot(plan, interpret, x, values, scale), (values, scale)


def backward(plan: Plan, interpret: bool, saved, grad: jax.Array):
    """The gradient of x: grad [T,F] times W [F,D]."""
    values, scale = saved
    rows, outputs = min(ROWS // 2, grad.shape[0]), min(OUTPUTS, plan.outputs)
    out = pl.pallas_call(
        partial(backward_kernel, plan),
        grid=(pl.cdiv(grad.shape[0], rows), plan.inputs // plan.depth, pl.cdiv(plan.outputs, outputs)),
        in_specs=[
            pl.BlockSpec((rows, outputs), lambda t, d, f: (t, f)),
            pl.BlockSpec((outputs, plan.stored), lambda t, d, f: (f, d)),
            pl.BlockSpec((plan.groups, outputs), lambda t, d, f: (0, f)),
        ],
        out_specs=pl.BlockSpec((rows, plan.depth), lambda t, d, f: (t, d)),
        out_shape=jax.ShapeDtypeStruct((grad.shape[0], plan.inputs), grad.dtype),
        scratch_shapes=[pltpu.VMEM((rows, plan.depth), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="jaxformers_quantized_dot_gradient",
    )(grad, values, scale.astype(jnp.float32))
    return out, None, None


def backward_kernel(plan: Plan, grad, values, scale, out, total) -> None:
    """One block of outputs; `total` [T,inputs] sums over them."""
    depth, block = pl.program_id(1), pl.program_id(2)
    size = grad.shape[1]
    ragged = plan.outputs % size != 0

    def real(shape: tuple[int, int], axis: int) -> jax.Array:
        """Which outputs exist: beyond the last one a block holds anything."""
        return block * size + jax.lax.broadcasted_iota(jnp.int32, shape, axis) < plan.outputs

    @pl.when(block == 0)
    def begin() -> None:
        total[...] = jnp.zeros_like(total)

    def scaled(row: jax.Array) -> jax.Array:
        wide = grad[...].astype(jnp.float32) * row
        return (jnp.where(real(wide.shape, 1), wide, 0.0) if ragged else wide).astype(grad.dtype)

    alike = scaled(scale[...]) if plan.rows == 0 else None
    for piece in plan.pieces():
        w = floats(values, piece, grad.dtype)
        w = jnp.where(real(w.shape, 0), w, 0) if ragged else w
        g = scaled(scale_row(scale, plan, piece, depth)) if alike is None else alike
        total[:, piece.inputs] += product(g, w, (1, 0))

    @pl.when(block == pl.num_programs(2) - 1)
    def end() -> None:
        out[...] = total[...].astype(out.dtype)


quantized_dot.defvjp(forward_and_save, backward)
