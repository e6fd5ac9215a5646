"""Scanned and per-layer parameter trees: the same model under two namings, one call apart."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.keymap import logical_path
from jaxformers.hub.abstract import Path, abstract_params, flatten, unbox, unflatten
from jaxformers.hub.adapted import by_layer, laid_out
from jaxformers.nn.stack import relayout


def restack_params(params: Any, module: nn.Module) -> dict[str, Any]:
    """Rename and stack (or unstack) parameters for `module`, the same model in another layout."""
    layers: dict[str, jax.Array] = {}
    for path, leaf in flatten(params).items():
        logical, rows = logical_path(path)
        for row, layer in enumerate([None] if rows is None else rows):
            name = logical if layer is None else logical.format(layer)
            layers[name] = leaf if layer is None else leaf[row]
    out: dict[Path, jax.Array] = {}
    for path, wanted in flatten(abstract_params(module)).items():
        logical, rows = logical_path(path)
        names = [logical] if rows is None else [logical.format(layer) for layer in rows]
        if absent := [n for n in names if n not in layers]:
            raise ValueError(
                f"{'/'.join(path)} needs {absent[0]}, which the parameters lack; are they another model's?"
            )
        out[path] = layers[names[0]] if rows is None else jnp.stack([layers[n] for n in names])
        if out[path].shape != unbox(wanted).shape:
            raise ValueError(f"{'/'.join(path)} has shape {out[path].shape}; the module needs {unbox(wanted).shape}")
    return unflatten(out)


def restack(model: Any, scan: bool) -> Any:
    """A `Model` with its layers stacked for `lax.scan` (training) or one by one (inference); values do not change."""
    module = relayout(model.module, scan=scan)
    new = model.replace(params=restack_params(model.params, module), module=module)
    if model.adapters is None:
        return new
    return new.replace(adapters=laid_out(by_layer(model.adapters, model.adapter), module, model.adapter))
