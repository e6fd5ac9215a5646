"""Adapters as peft's files: adapter_model.safetensors and adapter_config.json."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxformers.adapters.config import FILE, PREFIX
from jaxformers.adapters.targets import Target, targets_of
from jaxformers.core.adapter import LORA, SAVED, Adapter, Site
from jaxformers.core.config import vocabulary
from jaxformers.core.errors import AdapterError, JaxformersError
from jaxformers.core.frozen import thaw
from jaxformers.core.keymap import layer_names
from jaxformers.hub.abstract import abstract_params, flatten, unflatten
from jaxformers.hub.adapted import by_layer, is_stacked
from jaxformers.hub.atomic import staged_folder
from jaxformers.hub.checkpoint import ADAPTER_WEIGHTS
from jaxformers.hub.gathered import gathered
from jaxformers.hub.model import Model
from jaxformers.hub.pretrained import load_config
from jaxformers.hub.safetensors import Entry, in_order, write
from jaxformers.hub.save import hf_entries, on_several_processes

ONE_FILE = "1000TB"  # peft does not cut adapters into shards


def save_adapter(model: Model, path: str | Path) -> None:
    """Write the adapter alone, as peft does; the folder's other files stay. Raises AdapterError when there is none."""
    if model.adapters is None or model.adapter is None:
        raise AdapterError("the model has no adapter to save")
    entries = adapter_entries(model, model.adapter)
    text = json.dumps(thaw(model.adapter.config), indent=2, sort_keys=True)
    named = {PREFIX + name: entries[name] for name in sorted(entries)}
    if not on_several_processes(model.adapters):
        return write_adapter(path, named, text)
    from jax.experimental import multihost_utils

    if jax.process_index() > 0:
        for entry in in_order(named, ONE_FILE):
            entry.materialise()
    else:
        write_adapter(path, named, text)
    multihost_utils.sync_global_devices(f"saved {path}")


def write_adapter(path: str | Path, entries: dict[str, Entry], config: str) -> None:
    """Both files, by one process."""
    with staged_folder(path) as folder:
        write(Path(folder) / ADAPTER_WEIGHTS[0], entries)
        (Path(folder) / FILE).write_text(config, encoding="utf-8")


def adapter_entries(model: Model, adapter: Adapter) -> dict[str, Entry]:
    """{name without peft's prefix: entry} of all that the adapter's file holds."""
    leaves = by_layer(model.adapters, adapter)
    table = {target.paths: target for target in targets_of(model).values()}
    out: dict[str, Entry] = {}
    for site in adapter.sites:
        out |= site_entries(site, table[site.paths], leaves)
    saved = {tuple(name.split(".")): leaf for (kind, name), leaf in leaves.items() if kind == SAVED}
    saved |= kept_leaves(model, {*adapter.kept, *resized_tables(model, adapter)} - set(adapter.saved))
    adapted = {site.module for site in adapter.sites}
    for key, entry in hf_entries(model.blueprint.keys(), unflatten(saved)).items():
        module, _, leaf = key.rpartition(".")
        name = model.blueprint.module_name(module)
        name = next((n for n in (name, module) if n in adapted), name)
        out[f"{name}.base_layer.{leaf}" if name in adapted else f"{name}.{leaf}"] = entry
    return out


def kept_leaves(model: Model, names: set[str]) -> dict[tuple[str, ...], Any]:
    """{logical path: array} of parameters that go into the file though no adapter trains them."""
    out: dict[tuple[str, ...], Any] = {}
    for path, leaf in flatten(model.params).items() if names else ():
        for row, name in enumerate(layer_names(path)):
            if name in names:
                out[tuple(name.split("."))] = leaf[row] if is_stacked(path) else leaf
    return out


def resized_tables(model: Model, adapter: Adapter) -> set[str]:
    """The word tables of a model with another vocabulary than its base on disk, which the file must then hold."""
    words = vocabulary(model.config)
    try:
        base = load_config(adapter.config.get("base_model_name_or_path") or "", local_files_only=True)
    except JaxformersError:
        return set()
    if words is None or vocabulary(base) == words:
        return set()
    boxed = flatten(abstract_params(model.module))
    return {".".join(path) for path, leaf in boxed.items() if "vocab" in leaf.names}


def site_entries(site: Site, target: Target, leaves: Mapping[tuple[str, str], Any]) -> dict[str, Entry]:
    """A and B of one site, B put together from the parts of a fused module."""
    a = leaves[LORA, f"{site.paths[0]}.a"]
    parts = [leaves[LORA, f"{path}.b"] for path in site.paths]
    shape = (target.size, site.rank)

    def whole() -> np.ndarray:
        out = np.zeros(shape, parts[0].dtype)
        for n, part in enumerate(parts):
            view = target.rows(n, out)
            view[...] = gathered(part, ()).reshape(view.shape)
        return out

    left, right = ("embedding_A", "embedding_B") if site.embedding else ("A.weight", "B.weight")
    return {
        f"{site.module}.lora_{left}": Entry(tuple(a.shape), np.dtype(a.dtype), partial(gathered, a, ())),
        f"{site.module}.lora_{right}": Entry(shape, np.dtype(parts[0].dtype), whole),
    }
