"""Which leaves of a model are trained: chosen by path, picked out as a tree of their own, and put back."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.keymap import logical_path
from jaxformers.core.qtensor import parts_of
from jaxformers.hub.abstract import Path, unflatten
from jaxformers.hub.model import Model
from jaxformers.training.reach import general, unreached

ADVICE = "train an adapter on it (jf.lora), name other leaves with trainable=, or begin from the weights as they were"
Trainable = str | Iterable[str] | Callable[[str], bool] | None


def leaf_paths(model: Model) -> list[Path]:
    """The path of every leaf, in the order of `jax.tree.leaves(model)`; an adapter's begin with the adapter's kind."""
    return [tuple(map(word, path[1:])) for path, _ in jax.tree_util.tree_leaves_with_path(model)]


def word(key: Any) -> str:
    """One step of a jax key path as text."""
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


def logical_names(path: Path) -> list[str]:
    """The names that patterns read: one for each layer that the leaf holds, "layers/3/attn/q_proj/weight"."""
    logical, layers = logical_path(path)
    names = [logical] if layers is None else [logical.format(layer) for layer in layers]
    return [name.replace(".", "/") for name in names]


def choose(model: Model, trainable: Trainable) -> frozenset[Path]:
    """The paths of the leaves to train.

    trainable: None for all leaves, or for the adapters alone when the model has some; patterns, of which one must be
    found in a leaf's logical name; or a predicate of that name. Leaves that no gradient reaches and quantised ones
    never are. Raises ValueError when a pattern finds nothing, when it finds quantised leaves alone or there is nothing
    but these to train, and when layers stacked in one leaf are to be treated differently.
    """
    leaves = dict(zip(leaf_paths(model), jax.tree.leaves(model), strict=True))
    fixed, rounded = unreached(model.module), parts_of(model.params)
    floating = [
        path
        for path, leaf in leaves.items()
        if jnp.issubdtype(leaf.dtype, jnp.floating) and general(path) not in fixed and path not in rounded
    ]
    if trainable is None:
        adapters = adapter_paths(model)
        if rounded and not adapters:
            raise ValueError(f"{'/'.join(min(rounded)[:-1])} is quantised and cannot be trained: {ADVICE}")
        return frozenset(path for path in floating if not adapters or path in adapters)
    accepts = trainable if callable(trainable) else matcher(trainable, [*floating, *rounded])
    chosen = frozenset(path for path in floating if decide(path, accepts))
    if not chosen and any(decide(path, accepts) for path in rounded):
        raise ValueError(f"all that was chosen is quantised and cannot be trained: {ADVICE}")
    if not chosen:
        raise ValueError(f"nothing is trainable: no leaf is chosen; there are {example(floating)}")
    return chosen


def trained_share(model: Model, trainable: Trainable) -> float:
    """The share of the numbers in a model, of arrays or shapes, that get gradients."""
    chosen = choose(model, trainable)
    sizes = [(path in chosen, x.size) for path, x in zip(leaf_paths(model), jax.tree.leaves(model), strict=True)]
    return sum(size for trained, size in sizes if trained) / sum(size for _, size in sizes)


def adapter_paths(model: Model) -> frozenset[Path]:
    """The paths of the adapters' leaves."""
    keys = (path for path, _ in jax.tree_util.tree_leaves_with_path(model))
    return frozenset(tuple(map(word, path[1:])) for path in keys if word(path[0]) == "adapters")


def matcher(patterns: str | Iterable[str], paths: list[Path]) -> Callable[[str], bool]:
    """A predicate that searches for each pattern. Raises ValueError when one of them matches no leaf at all."""
    compiled = [re.compile(p) for p in ([patterns] if isinstance(patterns, str) else patterns)]
    names = [name for path in paths for name in logical_names(path)]
    for pattern in compiled:
        if not any(pattern.search(name) for name in names):
            raise ValueError(f"the pattern {pattern.pattern!r} matches no parameter; there are {example(paths)}")
    return lambda name: any(pattern.search(name) for pattern in compiled)


def decide(path: Path, accepts: Callable[[str], bool]) -> bool:
    """Whether a leaf is chosen, which must be said alike for all layers stacked in it."""
    names = logical_names(path)
    answers = {bool(accepts(name)): name for name in names}
    if len(answers) == 2:
        raise ValueError(
            f"{'/'.join(path)} stacks {len(names)} layers, of which {answers[True]} is to be trained and "
            f"{answers[False]} is not: put the layers one by one with jf.restack(model, scan=False)"
        )
    return True in answers


def example(paths: list[Path]) -> str:
    """A few names to correct a pattern by."""
    names = ["/".join(path) for path in paths]
    return ", ".join(names[:2] + names[-2:]) + f" ... ({len(names)} in all)"


def pick(model: Model, chosen: frozenset[Path]) -> dict[str, Any]:
    """The chosen leaves as nested dicts, without the others."""
    pairs = zip(leaf_paths(model), jax.tree.leaves(model), strict=True)
    return unflatten({path: leaf for path, leaf in pairs if path in chosen})


def put(model: Model, tree: dict[str, Any]) -> Model:
    """The model with the leaves of a tree that `pick` made in their places."""
    new = {tuple(map(word, path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    leaves, structure = jax.tree.flatten(model)
    paths = leaf_paths(model)
    if strangers := new.keys() - set(paths):
        raise ValueError(f"the model has no leaf {'/'.join(min(strangers))}: the tree is another model's")
    return jax.tree.unflatten(structure, [new.get(path, leaf) for path, leaf in zip(paths, leaves, strict=True)])
