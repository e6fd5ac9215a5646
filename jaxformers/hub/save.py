"""Parameters back to Hugging Face tensors: the key map run backwards, one tensor at a time."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxformers.core.keymap import KeyMap, Piece, their_shape, to_theirs
from jaxformers.hub.abstract import Path, flatten
from jaxformers.hub.safetensors import Entry

Parts = list[tuple[Path, Any, Piece]]


def materialise(shape: tuple[int, ...], dtype: np.dtype, parts: Parts) -> np.ndarray:
    """Copy together the leaves of ours that one checkpoint tensor is made of."""
    out = np.zeros(shape, dtype)
    for path, leaf, piece in parts:
        value = gathered(leaf, piece.at)
        view = piece.part.view(out)
        view[...] = to_theirs(path[-1], value).reshape(view.shape)
    return out


def gathered(leaf: Any, at: tuple[int, ...]) -> np.ndarray:
    """The part of a leaf at some layer and expert; of one that lies on several processes, all must ask together."""
    if getattr(leaf, "is_fully_addressable", True):
        return np.asarray(leaf[at] if at else leaf)
    # First cut, then copied to everyone: a whole stack of layers may not fit one device.
    return np.asarray(replicated(leaf, at, NamedSharding(leaf.sharding.mesh, PartitionSpec())))


@partial(jax.jit, static_argnums=2)
def replicated(leaf: jax.Array, at: tuple[int, ...], everywhere: NamedSharding) -> jax.Array:
    for index in at:
        leaf = jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False)
    return jax.lax.with_sharding_constraint(leaf, everywhere)


def on_several_processes(params: Any) -> bool:
    """Whether no process has the whole of the parameters."""
    return not all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(params))


def hf_entries(keys: KeyMap, params: Any) -> dict[str, Entry]:
    """{their key: entry} for every tensor of a checkpoint; values are copied only when an entry is read."""
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, np.dtype] = {}
    parts: dict[str, Parts] = {}
    for path, leaf in flatten(params).items():
        for piece in keys.pieces(path, tuple(leaf.shape)):
            key = piece.keys[0]
            shapes[key] = piece.part.whole(their_shape(path[-1], piece.shape))
            dtypes[key] = np.dtype(leaf.dtype)
            parts.setdefault(key, []).append((path, leaf, piece))
    names = sorted(parts)
    return {k: Entry(shapes[k], dtypes[k], partial(materialise, shapes[k], dtypes[k], parts[k])) for k in names}


def to_hf(keys: KeyMap, params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Pairs of their key and its tensor, in their layout."""
    for key, entry in hf_entries(keys, params).items():
        yield key, np.asarray(entry.materialise())
