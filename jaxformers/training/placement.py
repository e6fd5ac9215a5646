"""Where a training state lives: parameters by the rules, and whatever mirrors a parameter where that parameter is."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxformers.core.qtensor import parts_of
from jaxformers.core.sharding import Rules, spec
from jaxformers.hub.abstract import Path
from jaxformers.hub.adapted import abstract_leaves
from jaxformers.hub.load import leaf_shardings
from jaxformers.hub.model import Model
from jaxformers.training.data.device import one_to_device
from jaxformers.training.losses.output import Batch
from jaxformers.training.trainable import leaf_paths, word


def model_shardings(model: Model, mesh: Mesh, rules: Rules) -> list[NamedSharding]:
    """A sharding for every leaf, in the order of `jax.tree.leaves(model)`.

    Leaves that neither the module nor its adapter names stay where they are on this mesh, or are replicated.
    """
    known = leaf_shardings(abstract_leaves(model.module, model.adapter), mesh, rules)
    for path, (array, names) in parts_of(model.params).items():
        known[path] = NamedSharding(mesh, spec(names, array.shape, mesh, rules))
    pairs = zip(leaf_paths(model), jax.tree.leaves(model), strict=True)
    return [known[path] if path in known else keep(leaf, mesh) for path, leaf in pairs]


def keep(leaf: Any, mesh: Mesh) -> NamedSharding:
    """A leaf's own sharding when it is one of this mesh, else a copy on each device."""
    own = getattr(leaf, "sharding", None)
    return own if isinstance(own, NamedSharding) and own.mesh == mesh else NamedSharding(mesh, PartitionSpec())


def mirrored(tree: Any, trained: dict[Path, jax.ShapeDtypeStruct], mesh: Mesh) -> Any:
    """A sharding for each leaf of an optimiser's state (or of averages): where the parameter of its name is.

    A leaf is a parameter's when its path ends with the parameter's. Rows and columns of a factored moment are the
    parameter's shape without one axis, and so is their spec; anything else is replicated.
    """
    longest = max(map(len, trained), default=0)

    def one(path: tuple, leaf: Any) -> NamedSharding:
        words = tuple(map(word, path))
        tails = (words[-n:] for n in range(min(len(words), longest), 0, -1))
        name = next((tail for tail in tails if tail in trained), None)
        whole = None if name is None else trained[name]
        parts = None if whole is None else follow(leaf.shape, whole.shape, whole.sharding.spec)
        return NamedSharding(mesh, PartitionSpec() if parts is None else parts)

    return jax.tree_util.tree_map_with_path(one, tree)


def follow(shape: tuple[int, ...], whole: tuple[int, ...], parts: PartitionSpec) -> PartitionSpec | None:
    """The spec of a leaf that has a parameter's shape, or that shape without one axis; None for any other shape."""
    full = (*parts, *[None] * (len(whole) - len(parts)))
    if shape == whole:
        return PartitionSpec(*full)
    for axis in range(len(whole)):
        if shape == whole[:axis] + whole[axis + 1 :]:
            return PartitionSpec(*full[:axis], *full[axis + 1 :])
    return None


def batch_sharding(shape: tuple[int, ...], mesh: Mesh, rules: Rules, axis: int = 0) -> NamedSharding:
    """Rows over the mesh by the rule for `batch`; the other axes whole, since models place activations themselves."""
    names = [None] * len(shape)
    if len(shape) > axis:
        names[axis] = "batch"
    return NamedSharding(mesh, spec(names, shape, mesh, rules))


def place_batch(batch: Batch, mesh: Mesh, rules: Rules) -> Batch:
    """The batch on the mesh; arrays that are on it already stay."""

    def one(name: str, value: Any) -> jax.Array:
        own = getattr(value, "sharding", None)
        there = isinstance(own, NamedSharding) and own.mesh == mesh
        return value if there else one_to_device(name, value, mesh, rules)

    return {name: one(name, value) for name, value in batch.items()}
