"""Parameters back to Hugging Face tensors: the key map run backwards, one tensor at a time."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxformers.core.keymap import KeyMap, Piece, their_shape, to_theirs
from jaxformers.core.qtensor import is_quantized
from jaxformers.hub.abstract import Path, flatten
from jaxformers.hub.gathered import gathered
from jaxformers.hub.safetensors import Entry
from jaxformers.hub.save_quantized import quantized_entries

Parts = list[tuple[Path, Any, Piece]]


def materialise(shape: tuple[int, ...], dtype: np.dtype, parts: Parts) -> np.ndarray:
    """Copy together the leaves of ours that one checkpoint tensor is made of."""
    out = np.zeros(shape, dtype)
    for path, leaf, piece in parts:
        value = gathered(leaf, piece.at)
        view = piece.part.view(out)
        view[...] = to_theirs(path[-1], value).reshape(view.shape)
    return out


def on_several_processes(params: Any) -> bool:
    """Whether no process has the whole of the parameters."""
    return not all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(params))


def hf_entries(keys: KeyMap, params: Any) -> dict[str, Entry]:
    """{their key: entry} for every tensor of a checkpoint; values are copied only when an entry is read."""
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, np.dtype] = {}
    parts: dict[str, Parts] = {}
    leaves = flatten(params)
    rounded = {path: leaves.pop(path) for path in list(leaves) if is_quantized(leaves[path])}
    for path, leaf in leaves.items():
        for piece in keys.pieces(path, tuple(leaf.shape)):
            key = piece.keys[0]
            shapes[key] = piece.part.whole(their_shape(path[-1], piece.shape))
            dtypes[key] = np.dtype(leaf.dtype)
            parts.setdefault(key, []).append((path, leaf, piece))
    out = {k: Entry(shapes[k], dtypes[k], partial(materialise, shapes[k], dtypes[k], parts[k])) for k in parts}
    out |= quantized_entries(keys, rounded)
    return {key: out[key] for key in sorted(out)}


def to_hf(keys: KeyMap, params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Pairs of their key and its tensor, in their layout."""
    for key, entry in hf_entries(keys, params).items():
        yield key, np.asarray(entry.materialise())
