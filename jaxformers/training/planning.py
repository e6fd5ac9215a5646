"""How a training state begins: the model made ready, every leaf's shape and place planned, then filled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxformers.core.sharding import FSDP, Rules, auto_mesh
from jaxformers.hub.abstract import Path, as_dtype
from jaxformers.hub.model import Model
from jaxformers.nn.pipeline import layer_axes
from jaxformers.nn.stack import relayout
from jaxformers.training import placement
from jaxformers.training.state import TrainState
from jaxformers.training.trainable import leaf_paths, pick

# begin(trainable tree, key) -> a state without its model
Begin = Callable[[Any, jax.Array], TrainState]


def prepared(model: Model, mesh: Mesh | None, rules: Rules | None, dtype: Any, **layout: Any) -> Model:
    """The model as it will be trained: its mesh, compute dtype and layout set; no array is touched.

    layout: fields of every `Stack`, such as remat; None changes nothing.
    """
    changes: dict[str, Any] = {}
    layout = {name: value for name, value in layout.items() if value is not None}
    if mesh is not None:
        rules = FSDP if rules is None else rules
        changes |= {"mesh": auto_mesh(mesh, rules) if isinstance(mesh, Mesh) else mesh, "rules": rules}
    elif rules is not None:
        changes["rules"] = rules
    if dtype is not None:
        changes["compute_dtype"] = as_dtype(dtype)
    if layout:
        changes["module"] = relayout(model.module, **layout)
    return model.replace(**changes) if changes else model


def stacked(model: Model) -> Model:
    """The model as it is. Raises ValueError where rules lay its layers in stages and they are not stacked."""
    axes = () if model.mesh is None else layer_axes(model.mesh, model.rules)
    if axes and relayout(model.module, scan=True) is not model.module:
        raise ValueError(
            f"the rules lay stacked layers in stages along {', '.join(axes)}, and this model's layers are not stacked: "
            "make or load it with scan=True, or jf.restack(model, scan=True)"
        )
    return model


def planned(model: Model, chosen: frozenset[Path], param_dtype: Any, begin: Begin) -> TrainState:
    """The state as shapes with their shardings, from a prepared model of arrays or of shapes."""
    paths = leaf_paths(model)
    leaves, structure = jax.tree.flatten(model)
    mesh = model.mesh
    spots = [None] * len(leaves) if mesh is None else placement.model_shardings(model, mesh, model.rules)
    shapes = [
        jax.ShapeDtypeStruct(
            leaf.shape, param_dtype if path in chosen and param_dtype is not None else leaf.dtype, sharding=spot
        )
        for path, leaf, spot in zip(paths, leaves, spots, strict=True)
    ]
    plan = jax.tree.unflatten(structure, shapes)
    rest = jax.eval_shape(begin, pick(plan, chosen), jax.random.key(0))
    if mesh is not None:
        trained = {path: shape for path, shape in zip(paths, shapes, strict=True) if path in chosen}
        places = placement.mirrored(rest, trained, mesh)
        rest = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), rest, places)
    return rest.replace(model=plan)


def filled(plan: TrainState, model: Model, key: jax.Array, chosen: frozenset[Path], begin: Begin) -> TrainState:
    """The planned state in arrays of its own, with the values of `model`."""
    wanted = jax.tree.leaves(plan.model)
    leaves = [copied(x, w) for x, w in zip(jax.tree.leaves(model), wanted, strict=True)]
    own = jax.tree.unflatten(jax.tree.structure(plan.model), leaves)
    places = shardings(plan)
    rest = None if places is None else places.replace(model=None)
    return jax.jit(begin, out_shardings=rest)(pick(own, chosen), key).replace(model=own)


def copied(x: jax.Array, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """A new array with the values of `x`, in the dtype and place of a plan."""
    # device_put alone may hand on the very buffer, which the first step would then take from the caller's model.
    placed = x if wanted.sharding is None else jax.device_put(x, wanted.sharding)
    return jnp.array(placed, wanted.dtype, copy=True)


def shardings(state: TrainState) -> TrainState | None:
    """The sharding of each leaf; None without a mesh."""
    return None if state.model.mesh is None else jax.tree.map(lambda x: x.sharding, state)


def abstract_batch(batch: Any, model: Model) -> Any:
    """A batch as shapes; those without a sharding get the one that the model's rules say."""

    def one(x: Any) -> jax.ShapeDtypeStruct:
        spot = None if model.mesh is None else placement.batch_sharding(x.shape, model.mesh, model.rules)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or spot)

    return jax.tree.map(one, batch)
