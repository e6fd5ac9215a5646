"""Parameters and adapters together: what `module.apply` reads, the shapes of adapters, and both in another layout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxformers.core.adapter import LORA, SAVED, Adapter
from jaxformers.core.keymap import layer_names, logical_path
from jaxformers.hub.abstract import Path, abstract_params, abstract_variables, flatten, unbox, unflatten

RANK_AXIS = {"a": -2, "b": -1}


def variables(params: Any, adapters: Any, adapter: Adapter | None) -> dict[str, Any]:
    """The collections that `module.apply` takes."""
    if adapters is None or adapter is None:
        return {"params": params}
    return {"params": overlaid(params, adapters, adapter), LORA: collection(adapters.get(LORA, {}), adapter)}


def collection(tree: Any, adapter: Adapter) -> dict[str, Any]:
    """The collection `lora`: modules that share an `a` each see it, and scales stand beside."""
    out = flatten(tree)
    modules = list(dict.fromkeys(path[:-1] for path in out))
    places = {name: module for module in modules for name in layer_names(module)}
    for module in modules:
        sites = adapter.sites_at(module)
        first = next(site for site in sites if site is not None)
        out[*module, "a"] = out[*places[first.paths[0]], "a"]
        scales = np.array([0.0 if site is None else site.scale for site in sites], np.float32)
        numbers = {"scale": scales} | ({"rate": np.full_like(scales, adapter.dropout)} if adapter.dropout else {})
        for name, values in numbers.items():
            out[*module, name] = jnp.asarray(values if is_stacked(module) else values[0])
    return unflatten(out)


def overlaid(params: Any, adapters: Any, adapter: Adapter) -> Any:
    """The parameters with trained copies in their places, in the parameters' own dtypes."""
    if SAVED not in adapters:
        return params
    out = flatten(params)
    for path, copy in flatten(adapters[SAVED]).items():
        rows, own = adapter.saved_rows(path), out[path]
        copy = copy.astype(own.dtype)
        out[path] = copy if len(rows) == len(layer_names(path)) else own.at[rows].set(copy)
    return unflatten(out)


def is_stacked(path: Path) -> bool:
    """Whether a leaf holds layers on its first axis."""
    return logical_path(path)[1] is not None


def abstract_adapters(module: nn.Module, adapter: Adapter) -> dict[str, Any]:
    """The adapters of a module as shapes, boxed with their logical axis names: {"lora": ..., "saved": ...}.

    Layers stacked in one leaf are as wide as the highest rank among them; the rest is zero, and stays so in training.
    """
    out: dict[Path, Any] = {}
    for path, leaf in flatten(abstract_variables(module, LORA)).items():
        sites = [] if path[-1] not in RANK_AXIS else [s for s in adapter.sites_at(path[:-1]) if s is not None]
        if sites and (path[-1] == "b" or sites[0].paths[0] in layer_names(path[:-1])):
            out[LORA, *path] = with_rank(leaf, RANK_AXIS[path[-1]], max(site.rank for site in sites))
    if adapter.saved:
        for path, leaf in flatten(abstract_params(module)).items():
            if len(rows := adapter.saved_rows(path)):
                out[SAVED, *path] = with_layers(leaf, len(rows)) if is_stacked(path) else leaf
    return unflatten(out)


def abstract_leaves(module: nn.Module, adapter: Adapter | None) -> dict[str, Any]:
    """All leaves of a model as shapes, boxed with their logical axis names: its parameters, and "lora" and "saved"."""
    params = abstract_params(module)
    return params if adapter is None else params | abstract_adapters(module, adapter)


def with_rank(leaf: nn.LogicallyPartitioned, axis: int, rank: int) -> nn.LogicallyPartitioned:
    """A declared leaf, whose rank is 1, with another rank."""
    shape = list(leaf.value.shape)
    shape[axis] = rank
    return leaf.replace(value=jax.ShapeDtypeStruct(tuple(shape), jnp.float32))


def with_layers(leaf: nn.LogicallyPartitioned, count: int) -> nn.LogicallyPartitioned:
    """A stacked leaf of so many layers."""
    return leaf.replace(value=jax.ShapeDtypeStruct((count, *leaf.value.shape[1:]), leaf.value.dtype))


def by_layer(adapters: Any, adapter: Adapter) -> dict[tuple[str, str], Any]:
    """{(kind, logical path): array} with layers one by one and each at its own rank."""
    out: dict[tuple[str, str], Any] = {}
    for (kind, *words), leaf in flatten(adapters).items():
        path = tuple(words)
        names = layer_names(path)
        if kind == SAVED:
            rows = adapter.saved_rows(path)
            out |= {(kind, names[row]): leaf[n] if is_stacked(path) else leaf for n, row in enumerate(rows)}
            continue
        for row, site in enumerate(adapter.sites_at(path[:-1])):
            if site is not None:
                one = leaf[row] if is_stacked(path) else leaf
                out[kind, names[row]] = one[: site.rank] if path[-1] == "a" else one[:, : site.rank]
    return out


def laid_out(leaves: dict[tuple[str, str], Any], module: nn.Module, adapter: Adapter, numbers: Any = jnp) -> Any:
    """Undo `by_layer` for the layout of `module`; numbers: the module that stacks, numpy or jax.numpy."""
    out: dict[Path, Any] = {}
    for path, wanted in flatten(abstract_adapters(module, adapter)).items():
        kind, names = path[0], layer_names(path[1:])
        shape = tuple(unbox(wanted).shape)
        if not is_stacked(path[1:]):
            out[path] = leaves[kind, names[0]]
            continue
        rows = [leaves[kind, name] if (kind, name) in leaves else None for name in names]
        if kind == SAVED:
            out[path] = numbers.stack([row for row in rows if row is not None])
            continue
        dtype = next(row.dtype for row in rows if row is not None)
        out[path] = numbers.stack([filled(row, shape[1:], dtype, numbers) for row in rows])
    return unflatten(out)


def filled(row: Any, shape: tuple[int, ...], dtype: Any, numbers: Any) -> Any:
    """An array with zeros up to a shape; None is nothing but zeros."""
    if row is None:
        return numbers.zeros(shape, dtype)
    return row if row.shape == shape else numbers.pad(row, [(0, n - m) for n, m in zip(shape, row.shape, strict=True)])
