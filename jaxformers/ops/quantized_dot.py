"""Products with a quantised matrix: x [...,in] times a QTensor, along its inputs.

Gradients flow to x alone. Stored values are whole numbers or 8-bit floats and have none.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.core.qtensor import QTensor
from jaxformers.core.sharding import axes_of, free_axes, mesh_and_rules, over_shards, spec
from jaxformers.ops.dispatch import Op, target_platform
from jaxformers.ops.dot import dot_transposed, precision
from jaxformers.ops.flash_attention import check_unsharded
from jaxformers.ops.quantized_cpu import in_blocks
from jaxformers.ops.quantized_layout import check_cut, specs_of
from jaxformers.ops.summed import summed

MOST = 2048  # rows; for more, a matrix multiplied out once costs little beside the product


@jax.custom_jvp
def fixed(scale: jax.Array) -> jax.Array:
    """Scales as they are, and an error for who differentiates by them."""
    return scale


@fixed.defjvp
def refuse(primals: tuple, tangents: tuple) -> tuple:
    raise TypeError(
        "quantised weights have no gradient: train an adapter on them (jf.lora), or differentiate by other leaves"
    )


def by_parts(x: jax.Array, w: QTensor) -> jax.Array:
    """The reference: a scale for each output is applied to the product, those of groups to the matrix before it."""
    if w.groups > 1:
        return dot_transposed(x, w.replace(turned=False).dequantize(x.dtype))  # type: ignore[attr-defined]
    values, axes = w.unpacked().astype(x.dtype), (((x.ndim - 1,), (1,)), ((), ()))
    # Sums stay in float32 until they are scaled: one rounding, not two.
    y = jax.lax.dot_general(x, values, axes, precision=precision(x), preferred_element_type=jnp.float32)
    return (y * w.scale[0].astype(jnp.float32)).astype(x.dtype)


op = Op("quantized_dot", by_parts)
op.register("cpu", platforms=("cpu",), priority=10)(in_blocks)


def quantized_dot(x: jax.Array, w: QTensor) -> jax.Array:
    """x [...,in] times the matrix [out,in] or [in,out] that w stands for, along `in`; in x's dtype.

    Raises TypeError when w is differentiated.
    """
    return op(x, w.replace(scale=fixed(w.scale)))  # type: ignore[attr-defined]


class Layout(NamedTuple):
    """How a product lies on a mesh."""

    x: PartitionSpec
    w: QTensor  # a PartitionSpec in the place of each array
    out: PartitionSpec
    sums: tuple[str, ...]  # axes over which the product is a sum of parts


@op.register("pallas_tpu", platforms=("tpu",), priority=10)
def pallas_tpu(x: jax.Array, w: QTensor) -> jax.Array:
    """By the Pallas kernel for TPUs; elsewhere, when forced, the kernel is interpreted."""
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(f"x is {x.dtype}; takes bfloat16 or float32")
    active = mesh_and_rules()
    if active is None or not free_axes(active[0]):
        check_unsharded(x, w.values)
        return on_one_device(x, w)
    at = plan_layout(x, w, *active)

    def local(x: jax.Array, w: QTensor) -> jax.Array:
        return summed(at.sums, on_one_device(x, w))

    return over_shards(local, (at.x, at.w), at.out)(x, w)


def on_one_device(x: jax.Array, w: QTensor) -> jax.Array:
    """The product of one device's own parts. Raises NotImplementedError, with the reason, for what is not computed."""
    from jaxformers.kernels.quantized.blocks import plan
    from jaxformers.kernels.quantized.dot_tpu import quantized_dot

    rows = math.prod(x.shape[:-1])
    if rows > MOST:
        raise NotImplementedError(f"{rows} rows; for more than {MOST} the matrix is better multiplied out first")
    cut = plan(w.inputs, w.outputs, w.group_size, w.span)
    flat = jnp.pad(x.reshape(rows, w.inputs), ((0, -rows % 16), (0, 0)))  # 16 rows of bfloat16 fill a tile
    out = quantized_dot(cut, target_platform() != "tpu", flat, w.values, w.scale)
    return out[:rows].reshape(*x.shape[:-1], w.outputs)


def plan_layout(x: jax.Array, w: QTensor, mesh, rules) -> Layout:
    """Where the rules put both. Along axes that cut the tokens a matrix is gathered, along others it stays cut."""
    names = ("batch", "length")[: x.ndim - 1]
    lead = spec((*names, *(None,) * (x.ndim - len(names))), x.shape, mesh, rules)[: x.ndim - 1]
    tokens = {axis for entry in lead for axis in axes_of(entry)}
    table = dict(rules)
    taken = tokens | {axis for name in ("batch", "length") for axis in axes_of(table.get(name))}
    outputs, inputs = (kept(entry, taken) for entry in spec(w.names["values"], w.values.shape, mesh, rules))
    check_cut(w, math.prod(mesh.shape[axis] for axis in inputs))
    out, into = outputs or None, inputs or None
    return Layout(PartitionSpec(*lead, into), specs_of(w, out, into), PartitionSpec(*lead, out), inputs)


def kept(entry, taken: set[str]) -> tuple[str, ...]:
    """The axes of a spec's entry along which a matrix stays cut."""
    return tuple(axis for axis in axes_of(entry) if axis not in taken)
