"""Parameter trees without values: shapes and logical axis names of a module."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from jaxformers.core.keymap import logical_path
from jaxformers.nn.stack import Sample, relayout

Path = tuple[str, ...]


def abstract_params(module: nn.Module) -> dict[str, Any]:
    """The module's parameters as shapes, boxed with their logical axis names."""
    return abstract_variables(module, "params")


def abstract_variables(module: nn.Module, collection: str) -> dict[str, Any]:
    """A collection as shapes, boxed with their logical axis names.

    Of layers that repeat only the first are traced: the others have the same shapes.
    """
    scanned = relayout(module, scan=True) is module
    if not scanned and relayout(module, scan=False) is not module:
        return trace(module, collection)  # some stacks scan and some do not
    out: dict[Path, Any] = {}
    for path, leaf in flatten(trace(relayout(module, scan=True, segment=Sample), collection)).items():
        logical, rows = logical_path(path)
        if rows is None:
            out[path] = leaf
        elif scanned:
            out[path] = stacked(leaf, len(rows))
        else:
            out |= {tuple(logical.format(layer).split(".")): leaf for layer in rows}
    return unflatten(out)


def trace(module: nn.Module, collection: str) -> dict[str, Any]:
    """The shape of every array of a collection, by tracing the module on dummy inputs."""

    def apply(**arrays: jax.Array) -> Any:
        return module.apply({}, **arrays, mutable=["params", collection])[1]

    return dict(jax.eval_shape(apply, **module.dummy_inputs()).get(collection, {}))  # type: ignore[attr-defined]


def stacked(leaf: Any, count: int) -> Any:
    """A leaf with an axis of layers before its own."""
    if not isinstance(leaf, nn.LogicallyPartitioned):
        return jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)
    shape = jax.ShapeDtypeStruct((count, *leaf.value.shape), leaf.value.dtype)
    return leaf.replace(value=shape, names=("layers", *leaf.names))


def flatten(tree: Any) -> dict[Path, Any]:
    """{path: leaf}, boxes and quantised leaves kept whole."""
    return traverse_util.flatten_dict(tree, is_leaf=lambda _, v: not isinstance(v, dict))


def unflatten(flat: dict[Path, Any]) -> dict[str, Any]:
    """Undo `flatten`."""
    return traverse_util.unflatten_dict(flat)


def unbox(leaf: Any) -> Any:
    """The value in a box of logical names."""
    return leaf.value if isinstance(leaf, nn.LogicallyPartitioned) else leaf


def as_dtype(dtype: Any) -> Any:
    """A numpy dtype from a name such as "bfloat16", "torch.float16" or jnp.float32; None stays None."""
    if dtype is None:
        return None
    name = dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype
    return jnp.dtype({"half": "float16", "float": "float32", "double": "float64"}.get(name, name))
