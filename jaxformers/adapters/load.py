"""Adapters read from peft's files, for a model at hand or with the base model that they name."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.adapters.config import FILE, PREFIX, check, rank_of
from jaxformers.adapters.lora import adapter_of, chosen_targets, put
from jaxformers.adapters.saved import saved_paths
from jaxformers.adapters.targets import Target, targets_of
from jaxformers.core.adapter import LORA, SAVED, Adapter, Site
from jaxformers.core.config import read_json
from jaxformers.core.errors import AdapterError, CheckpointError
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import HOLE, KeyMap, layer_names, to_ours
from jaxformers.hub.abstract import as_dtype, flatten, unflatten
from jaxformers.hub.adapted import abstract_adapters, laid_out, overlaid
from jaxformers.hub.checkpoint import ADAPTER_WEIGHTS, open_file
from jaxformers.hub.download import resolve
from jaxformers.hub.load import leaf_shardings
from jaxformers.hub.model import Model

M = TypeVar("M")
LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(?P<table>embedding_)?(?P<side>[AB])(?:\.[^.]+)??(?:\.weight)?$")


def load_adapter(model: Model, source: str | Path, *, dtype: Any = None, **hub: Any) -> Model:
    """Return the model with the adapter of a folder or a Hub id, made by peft or by us.

    dtype: of the adapter, None keeps the file's. Further keywords are the Hub's: revision, token, ... Raises
    AdapterError for what is not supported, CheckpointError when the file does not fit the model.
    """
    if model.adapters is not None:
        raise AdapterError("the model has an adapter: merge it first, or drop it with model.replace(adapters=None)")
    folder = resolve(source, **hub)
    raw = read_json(folder / FILE)
    config = check(raw, str(folder / FILE))
    file = open_adapter(folder)
    tensors = {key.removeprefix(PREFIX): key for key in file}
    keys, table, modules = matched(model, tensors, folder)
    ranks = {target.name: file[sides["A"]].shape[0] for target, sides in modules.values()}
    check_complete(model, table, config, modules, folder)
    leaves: dict[tuple[str, str], np.ndarray] = {}
    names = {}
    for name, (target, sides) in modules.items():
        if ranks[target.name] != (wanted := rank_of(config, name)):
            raise CheckpointError(f"{folder}: {name} has rank {ranks[target.name]}; {FILE} says {wanted}")
        leaves |= site_leaves(target, file[sides["A"]], file[sides["B"]], folder)
        names[target.name] = name
    rest = whole_leaves(model, keys, {k: file[v] for k, v in tensors.items() if not LOW_RANK.match(k)}, folder)
    trained = saved_paths(model, tuple(config["modules_to_save"] or ()), keys=keys)
    saved = {k: v for k, v in rest.items() if k in trained or k.endswith(".bias") and config["bias"] != "none"}
    model = with_kept(model, {k: v for k, v in rest.items() if k not in saved})
    plain = {**config, "modules_to_save": None, "bias": "none"}
    made = adapter_of(model, [target for target, _ in modules.values()], plain, ranks)
    sites = tuple(Site(names[s.module], s.paths, s.rank, s.scale, s.embedding) for s in made.sites)
    adapter = Adapter(sites, tuple(saved), tuple(rest.keys() - saved.keys()), made.dropout, FrozenDict(raw))
    leaves |= {(SAVED, name): value for name, value in saved.items()}
    return model.replace(adapters=placed(model, adapter, leaves, as_dtype(dtype)), adapter=adapter)


def open_adapter(folder: Path) -> Any:
    """The adapter's weights. Raises CheckpointError when there are none."""
    for name in ADAPTER_WEIGHTS:
        if (folder / name).exists():
            return open_file(folder / name)
    raise CheckpointError(f"{folder}: no adapter weights; expected {' or '.join(ADAPTER_WEIGHTS)} beside {FILE}")


def matched(model: Model, tensors: Mapping[str, str], folder: Path):
    """The key table that the file was written by, its targets, and {module: (target, {"A": key, "B": key})}.

    An adapter of another class on the same backbone fits as well, such as a language model's on the base model.
    """
    sides: dict[str, dict[str, str]] = {}
    for name, key in tensors.items():
        if match := LOW_RANK.match(name):
            sides.setdefault(match["module"], {})[match["side"]] = key
    if odd := [module for module, pair in sides.items() if len(pair) != 2]:
        raise CheckpointError(f"{folder}: {odd[0]} has only one of lora_A and lora_B")
    plan, strangers = model.blueprint, []
    for prefix in plan.prefixes:
        keys = plan.keys(prefix)
        table = targets_of(model, keys)
        by_name = {name: target for target in table.values() for name in target.names[::-1]}
        by_name |= {target.name: target for target in table.values()}
        strangers = strangers or [module for module in sides if module not in by_name]
        if all(module in by_name for module in sides):
            return keys, table, {module: (by_name[module], pair) for module, pair in sides.items()}
    known = ", ".join(list(targets_of(model))[:3])
    raise CheckpointError(
        f"{folder}: the adapter is for modules that this {model.config.model_type} lacks or cannot adapt: "
        f"{', '.join(strangers[:3])}; it has {known}, .... Is it another model's?"
    )


def check_complete(model: Model, table: dict[str, Target], config: dict, modules: Mapping[str, Any], folder: Path):
    """Raise CheckpointError when the config names a module whose tensors the file lacks."""
    if not config["target_modules"]:
        return
    try:
        wanted = chosen_targets(model, table, config)
    except AdapterError:
        return  # names of another class, or of modules that only PyTorch's model has
    have = {target.paths for target, _ in modules.values()}
    if lost := [target.name for target in wanted if target.paths not in have]:
        raise CheckpointError(
            f"{folder}: {FILE} names {len(lost)} modules that the weights lack: {', '.join(lost[:3])}"
        )


def site_leaves(target: Target, a: np.ndarray, b: np.ndarray, folder: Path) -> dict[tuple[str, str], np.ndarray]:
    """The leaves of one module: A once, and each part's rows of B. Raises CheckpointError for other shapes."""
    rank = a.shape[0]
    if a.shape != (rank, target.inputs) or b.shape != (target.size, rank):
        found, expected = f"{a.shape} and {b.shape}", f"{(rank, target.inputs)} and {(target.size, rank)}"
        advice = "resize the model's vocabulary first" if target.embedding or target.tied else "is it another model's?"
        raise CheckpointError(f"{folder}: {target.name} has A and B of {found}; the model needs {expected}: {advice}")
    out = {(LORA, f"{target.paths[0]}.a"): a}
    for n, (path, size) in enumerate(zip(target.paths, target.outputs, strict=True)):
        out[LORA, f"{path}.b"] = target.rows(n, b).reshape(size, rank)
    return out


def with_kept(model: Model, values: Mapping[str, np.ndarray]) -> Model:
    """The model with parameters of its own replaced by those of the file, in their dtypes and places."""
    if not values:
        return model
    kept = Adapter((), tuple(values))
    tree = laid_out({(SAVED, name): value for name, value in values.items()}, model.module, kept, np)
    new = jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding), overlaid(model.params, tree, kept), model.params
    )
    return model.replace(params=new)


def whole_leaves(model: Model, keys: KeyMap, tensors: Mapping[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """{our logical path: value} of tensors that are no A or B. Raises CheckpointError for one that fits nothing."""
    left = {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items()}
    used, out = set(), {}
    for path, leaf in flatten(model.params).items() if left else ():
        for name in layer_names(path):
            part, candidates = keys.find(name)
            key = next((k for k in spellings(model, candidates) if k in left), None)
            if key is None or HOLE.search(key):
                continue
            shape = tuple(leaf.shape) if len(layer_names(path)) == 1 else tuple(leaf.shape[1:])
            value = to_ours(path[-1], part.view(np.asarray(left[key])))
            if value.size != int(np.prod(shape)):
                raise CheckpointError(
                    f"{folder}: {key} has shape {left[key].shape}; {name} has {shape}: resize the model"
                )
            used.add(key)
            out[name] = value.reshape(shape)
    if odd := sorted(name for name in left.keys() - used if not keys.ignores(name)):
        raise CheckpointError(f"{folder}: holds {', '.join(odd[:3])}, which the model does not read")
    return out


def spellings(model: Model, candidates: tuple[str, ...]) -> list[str]:
    """Names under which a tensor may stand: transformers' and those of checkpoints."""
    pairs = [key.rpartition(".")[::2] for key in candidates]
    return [f"{model.blueprint.module_name(module)}.{leaf}" for module, leaf in pairs] + list(candidates)


def placed(model: Model, adapter: Adapter, leaves: Mapping[tuple[str, str], np.ndarray], dtype: Any) -> dict[str, Any]:
    """The leaves in the model's layout, each where it will live."""
    boxed = abstract_adapters(model.module, adapter)
    places = leaf_shardings(boxed, model.mesh, model.rules)
    out = {}
    for path, value in flatten(laid_out(dict(leaves), model.module, adapter, np)).items():
        floating = dtype is not None and jnp.issubdtype(value.dtype, jnp.floating)
        value = value.astype(dtype) if floating else np.array(value)
        out[path] = put(value, places[path])
    return unflatten(out)


def load_with_base(load: Callable[..., M], folder: Path, hub: Mapping[str, Any], **arguments: Any) -> M:
    """The base model that an adapter's folder names, loaded by `load`, with the adapter."""
    config = check(read_json(folder / FILE), str(folder / FILE))
    base = config["base_model_name_or_path"]
    beside = (folder / "config.json").exists()
    if not base and not beside:
        raise AdapterError(
            f"{folder / FILE} names no base model: load that, and then jf.load_adapter(model, {str(folder)!r})"
        )
    if beside and (not base or not Path(base).exists()):
        base = folder
    hub = {**hub, "revision": config["revision"]}
    model: Any = load(base, with_adapter=False, **hub, **arguments)
    return load_adapter(with_words_of(model, folder), folder)  # type: ignore[return-value]


def with_words_of(model: Model, folder: Path) -> Model:
    """The model with as many words as the file's own table has, if it holds one."""
    file = open_adapter(folder)
    for target in targets_of(model).values():
        names = (f"{PREFIX}{name}{end}.weight" for name in target.names for end in ("", ".base_layer"))
        for tensor in (file[name] for name in names if target.embedding and name in file):
            if tensor.shape[0] != target.inputs:
                return model.resize_token_embeddings(tensor.shape[0])
    return model
