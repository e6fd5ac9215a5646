"""A training state as arrays with names, which is how a checkpoint holds it, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxformers.core.errors import CheckpointError

Named = dict[str, Any]


def named_leaves(state: Any) -> Named:
    """{"model/params/layers/0/attn/q_proj/weight": leaf}, the same in every run of the same model and optimiser."""
    out: Named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in out:
            raise CheckpointError(f"two leaves of the state are named {name}; rename one, for a checkpoint holds one.")
        out[name] = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    return out


def with_leaves(like: Any, leaves: Mapping[str, Any]) -> Any:
    """A state of the structure of `like` with other leaves."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in named_leaves(like)])


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Dictionaries in dictionaries, as orbax lays files out."""
    out: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        inner = out
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = leaf
    return out


def flat(tree: Mapping[str, Any], prefix: str = "") -> Named:
    """Undo `nested`."""
    out: Named = {}
    for name, value in tree.items():
        out |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return out


def is_key(leaf: Any) -> bool:
    """Whether an array holds typed random keys, which files keep as plain numbers."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaves: Mapping[str, Any]) -> Named:
    """The same with keys as their numbers."""
    return {name: key_numbers(leaf) if is_key(leaf) else leaf for name, leaf in leaves.items()}


def with_keys(leaves: Mapping[str, Any], like: Mapping[str, Any]) -> Named:
    """Undo `plain`; the kind of each key is that of `like`."""
    return {name: as_key(leaf, like[name]) if is_key(like[name]) else leaf for name, leaf in leaves.items()}


def abstract(leaves: Mapping[str, Any]) -> Named:
    """Shapes, dtypes and shardings as files have them; what says nothing of devices goes to the first."""
    out: Named = {}
    for name, leaf in leaves.items():
        shape = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
        sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.devices()[0])
        out[name] = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
    return out


@jax.jit
def key_numbers(key: jax.Array) -> jax.Array:
    """A key's numbers, of an array over any number of processes."""
    return jax.random.key_data(key)


def as_key(numbers: jax.Array, like: Any) -> jax.Array:
    """Keys of the kind of `like` from their numbers."""
    kinds: list[Any] = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), like)
    return jax.jit(lambda x: jax.random.wrap_key_data(x, impl=kinds[0]))(numbers)
