"""QTensor: a matrix kept as small integers or 8-bit floats, with a scale for each output or a few of them."""

from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.pytree import dataclass

STORED = {"int8": jnp.dtype(jnp.int8), "int4": jnp.dtype(jnp.uint8), "fp8": jnp.dtype(jnp.float8_e4m3fn)}
BITS = {"int8": 8, "int4": 4, "fp8": 8}


@dataclass
class QTensor:
    """W ~ values * scale: values [...,out,in] as PyTorch stores them, scale [...,groups,out].

    values: int8, float8_e4m3fn, or for int4 uint8 with two numbers in each byte. kind: "int8", "int4" or "fp8". dtype:
    of the matrix that it stands for. axes: the logical names of (out, in), and before them those of experts. turned:
    the matrix is [...,in,out], as the kernels of experts are. span: int4 only; of so many inputs that follow each
    other the first half lies in the low and the second half in the high four bits.
    """

    values: jax.Array
    scale: jax.Array
    kind: str = struct.field(pytree_node=False)
    dtype: Any = struct.field(pytree_node=False)
    axes: tuple[str | None, ...] = struct.field(pytree_node=False, default=(None, None))
    turned: bool = struct.field(pytree_node=False, default=False)
    span: int = struct.field(pytree_node=False, default=0)

    @property
    def inputs(self) -> int:
        """How many there are of each output."""
        return self.values.shape[-1] * (2 if self.span else 1)

    @property
    def outputs(self) -> int:
        """How many there are of each layer or expert."""
        return self.values.shape[-2]

    @property
    def groups(self) -> int:
        """How many scales each output has."""
        return self.scale.shape[-2]

    @property
    def group_size(self) -> int:
        """How many inputs share a scale."""
        return self.inputs // self.groups

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix, with its stacked layers or experts."""
        sizes = (self.inputs, self.outputs) if self.turned else (self.outputs, self.inputs)
        return (*self.values.shape[:-2], *sizes)

    @property
    def ndim(self) -> int:
        """Of the matrix, with its stacked layers or experts."""
        return self.values.ndim

    @property
    def size(self) -> int:
        """How many weights there are."""
        return self.values.size * (2 if self.span else 1)

    @property
    def nbytes(self) -> int:
        """Of values and scales."""
        return sum(x.size * x.dtype.itemsize for x in (self.values, self.scale))

    @property
    def names(self) -> dict[str, tuple[str | None, ...]]:
        """The logical names of the axes of "values" and "scale"; a single group has none."""
        # Of a stack of layers each is like the next; of experts that were taken apart the name is gone.
        names = (("layers",) * (self.ndim - len(self.axes)) + self.axes)[-self.ndim :]
        groups = names[-1] if self.groups > 1 else None
        return {"values": names, "scale": (*names[:-2], groups, names[-2])}

    def astype(self, dtype: Any) -> Self:
        """The same values, standing for a matrix of another dtype; scales keep their precision."""
        return self.replace(dtype=jnp.dtype(dtype))  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Self:
        """Some layers or experts of several: both arrays are cut along the axes before the matrix."""
        return jax.tree.map(lambda x: x[index], self)

    def unpacked(self) -> jax.Array:
        """The values one by one [...,out,in]: int8 or float8_e4m3fn."""
        return unpack(self.values, self.span) if self.span else self.values

    def dequantize(self, dtype: Any = None) -> jax.Array:
        """The matrix, multiplied out in float32 and rounded once to a dtype, by default its own."""
        values = self.unpacked().astype(jnp.float32)
        scale = jnp.swapaxes(self.scale.astype(jnp.float32), -1, -2)[..., None]
        whole = (values.reshape(*values.shape[:-1], self.groups, -1) * scale).reshape(values.shape)
        whole = whole.astype(self.dtype if dtype is None else dtype)
        return jnp.swapaxes(whole, -1, -2) if self.turned else whole


def parts_of(params: Any) -> dict[tuple[str, ...], tuple[Any, tuple[str | None, ...]]]:
    """{path: (array, logical names of its axes)} of the two arrays of every quantised matrix in nested dicts."""
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantized):
        if is_quantized(leaf):
            words = tuple(str(key.key) for key in path)
            out |= {(*words, name): (getattr(leaf, name), names) for name, names in leaf.names.items()}
    return out


def dtype_of(params: Any) -> Any:
    """The dtype that a model's first leaf has, or stands for."""
    return jax.tree.leaves(params, is_leaf=is_quantized)[0].dtype


def is_quantized(leaf: Any) -> bool:
    """Whether a leaf is a quantised matrix; for use as `is_leaf`."""
    return isinstance(leaf, QTensor)


def span_of(inputs: int, group: int) -> int:
    """Two groups that follow each other share bytes, so that each half has one scale; a lone group shares its own."""
    return 2 * group if inputs % (2 * group) == 0 else group


def pack(values: Any, span: int) -> Any:
    """Int4 values [...,in] in int8, of numpy or jax, to uint8 [...,in/2]; see `QTensor.span`."""
    halves = values.reshape(*values.shape[:-1], -1, 2, span // 2).astype(STORED["int4"]) & 15
    both = halves[..., 0, :] | (halves[..., 1, :] << 4)
    return both.reshape(*values.shape[:-1], -1)


def unpack(packed: Any, span: int, numbers: Any = jnp) -> Any:
    """Undo `pack`; numbers: the module that stacks, numpy or jax.numpy."""
    blocks = packed.reshape(*packed.shape[:-1], -1, span // 2)
    halves = numbers.stack([signed(blocks & 15), signed(blocks >> 4)], axis=-2)
    return halves.reshape(*packed.shape[:-1], -1)


def signed(x: Any) -> Any:
    """0..15 as four bits of two's complement: -8..7, int8."""
    return (x.astype(STORED["int8"]) ^ 8) - 8
