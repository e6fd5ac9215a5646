"""Optimisers that look at a whole matrix, applied to each layer of a stacked leaf as if it stood alone."""

from typing import Any

import jax
import optax

from jaxformers.core.keymap import logical_path
from jaxformers.hub.abstract import unflatten
from jaxformers.training.trainable import word


def by_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same transformation in both layouts: stacked leaves are mapped over their layers.

    Moments that are factored, norms of updates and orthogonal matrices are a layer's own, so a model that scans its
    layers trains as one that does not.
    """
    inner = optax.with_extra_args_support(transform)

    def init(params: Any) -> dict[str, Any]:
        return {
            group: inner.init(tree) if group == ALONE else jax.vmap(inner.init)(tree)
            for group, tree in grouped(params).items()
        }

    def update(updates: Any, state: dict[str, Any], params: Any = None, **extra: Any) -> tuple[Any, Any]:
        others = grouped(params)
        new_state, found = {}, []
        for group, tree in grouped(updates).items():

            def one(tree: Any, state: Any, params: Any) -> tuple[Any, Any]:
                return inner.update(tree, state, params, **extra)

            run = one if group == ALONE else jax.vmap(one)
            new, new_state[group] = run(tree, state[group], others[group])
            found += jax.tree_util.tree_leaves_with_path(new)
        return restored(updates, found), new_state

    return optax.GradientTransformationExtraArgs(init, update)


ALONE = "1"


def grouped(tree: Any) -> dict[str, Any]:
    """The tree in parts: leaves of one layer, and for each number of layers those that stack so many."""
    groups: dict[str, dict] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        words = tuple(map(word, path))
        layers = logical_path(words)[1]
        groups.setdefault(ALONE if layers is None else f"{len(layers)}", {})[words] = leaf
    return {group: unflatten(flat) for group, flat in sorted(groups.items())}


def restored(like: Any, found: list[tuple[tuple, Any]]) -> Any:
    """The parts' leaves in the whole tree's order."""
    table = {tuple(map(word, path)): leaf for path, leaf in found}
    return jax.tree_util.tree_map_with_path(lambda path, _: table[tuple(map(word, path))], like)
