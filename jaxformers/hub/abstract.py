"""Parameter trees without values: shapes and logical axis names of a module."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

Path = tuple[str, ...]


def abstract_params(module: nn.Module) -> dict[str, Any]:
    """The module's parameters as shapes, boxed with their logical axis names."""
    inputs = module.dummy_inputs()  # type: ignore[attr-defined]

    def init(**arrays: jax.Array) -> Any:
        return module.init(jax.random.key(0), **arrays)

    return dict(jax.eval_shape(init, **inputs)["params"])


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
