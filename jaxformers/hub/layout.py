"""Scanned and per-layer parameter trees: the same model under two namings, one call apart."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.keymap import logical_path
from jaxformers.core.sharding import named_shardings
from jaxformers.hub.abstract import Path, abstract_params, flatten, unbox, unflatten
from jaxformers.hub.adapted import by_layer, laid_out
from jaxformers.nn.stack import relayout


def restack_params(params: Any, module: nn.Module, places: dict[Path, Any] | None = None) -> dict[str, Any]:
    """Rename and stack (or unstack) parameters for `module`, the same model in another layout.

    places: shardings of the module's leaves, for those that are made anew.
    """
    layers: dict[str, jax.Array] = {}
    for path, leaf in flatten(params).items():
        logical, rows = logical_path(path)
        for row, layer in enumerate([None] if rows is None else rows):
            name = logical if layer is None else logical.format(layer)
            layers[name] = leaf if layer is None else put(leaf[row], tuple(name.split(".")), places)
    out: dict[Path, jax.Array] = {}
    for path, wanted in flatten(abstract_params(module)).items():
        logical, rows = logical_path(path)
        names = [logical] if rows is None else [logical.format(layer) for layer in rows]
        if absent := [n for n in names if n not in layers]:
            raise ValueError(
                f"{'/'.join(path)} needs {absent[0]}, which the parameters lack; are they another model's?"
            )
        out[path] = layers[names[0]] if rows is None else put(stacked(path, [layers[n] for n in names]), path, places)
        if out[path].shape != unbox(wanted).shape:
            raise ValueError(f"{'/'.join(path)} has shape {out[path].shape}; the module needs {unbox(wanted).shape}")
    return unflatten(out)


def put(leaf: Any, path: Path, places: dict[Path, Any] | None) -> Any:
    """A new leaf in its place, where there is one: a layer cut out of a stage would else be whole on every device."""
    if places is None or path not in places or not isinstance(leaf, jax.Array):
        return leaf
    return jax.device_put(leaf, places[path])


def stacked(path: Path, layers: list[Any]) -> Any:
    """Equal leaves of layers in one. Raises ValueError where some are quantised and others are not, or otherwise."""
    if len({jax.tree.structure(layer) for layer in layers}) > 1:
        raise ValueError(f"{'/'.join(path)} would stack layers that are quantised in different ways: keep scan=False")
    return jax.tree.map(lambda *parts: jnp.stack(parts), *layers)


def restack(model: Any, scan: bool) -> Any:
    """A `Model` with its layers stacked for `lax.scan` (training) or one by one (inference); values do not change."""
    module = relayout(model.module, scan=scan)
    mesh = model.mesh
    places = None if mesh is None else flatten(named_shardings(abstract_params(module), mesh, model.rules))
    new = model.replace(params=restack_params(model.params, module, places), module=module)
    if model.adapters is None:
        return new
    return new.replace(adapters=laid_out(by_layer(model.adapters, model.adapter), module, model.adapter))
