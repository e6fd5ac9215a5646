"""LoRA: a model with low-rank updates beside its frozen weights. Source: arXiv:2106.09685."""

import re
import zlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.adapters.config import DEFAULTS, HEADS, TASK_TYPES, check, in_layers, rank_of, scale_of
from jaxformers.adapters.saved import check_saved, inside, saved_paths
from jaxformers.adapters.targets import Patterns, Target, choose, fits, targets_of
from jaxformers.core.adapter import Adapter, Site
from jaxformers.core.errors import AdapterError
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.qtensor import is_quantized
from jaxformers.hub.abstract import Path, as_dtype, flatten, unbox, unflatten
from jaxformers.hub.adapted import abstract_adapters, is_stacked
from jaxformers.hub.load import leaf_shardings
from jaxformers.hub.model import Model

Names = str | Iterable[str]


def lora(
    model: Model,
    rank: int = 8,
    targets: Names = "all-linear",
    *,
    alpha: float = 8,
    dropout: float = 0.0,
    rslora: bool = False,
    bias: Literal["none", "all", "lora_only"] = "none",
    modules_to_save: Iterable[str] | None = None,
    exclude: Names | None = None,
    layers: int | Iterable[int] | None = None,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    dtype: Any = jnp.float32,
    key: jax.Array | None = None,
) -> Model:
    """Return the model with a fresh adapter, which changes nothing until it is trained; as peft's LoraConfig says it.

    targets: names of modules, or their ends, as transformers has them ("q_proj", "query", "c_attn"); a regular
    expression for whole names; or "all-linear". modules_to_save: modules trained and saved whole; None is the
    classifier of a classification model, as in peft. layers: numbers of the layers to adapt, None for all. dtype: of
    the adapter. key: for its first values. Raises AdapterError for what no module has or can have.
    """
    if model.adapters is not None:
        raise AdapterError("the model has an adapter: merge it first, or drop it with model.replace(adapters=None)")
    table = targets_of(model)
    saved = heads_of(model) if modules_to_save is None else tuple(modules_to_save)
    check_saved(model, saved)
    given = dict(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=rslora, bias=bias, exclude_modules=plain(exclude),
        layers_to_transform=plain(layers), rank_pattern=dict(rank_pattern or {}),
        alpha_pattern=dict(alpha_pattern or {}), target_modules=plain(targets), modules_to_save=list(saved) or None,
        base_model_name_or_path=model.source,
    )  # fmt: skip
    config = check({**DEFAULTS, **given}, "lora")
    chosen = chosen_targets(model, table, config)
    config["target_modules"] = named(config["target_modules"], chosen, table)
    config["fan_in_fan_out"] = any(part.in_out for target in chosen for part in target.parts)
    kind = TASK_TYPES.get(model.task)
    config["task_type"] = kind if kind not in HEADS or set(saved) & set(HEADS[kind]) else None
    adapter = adapter_of(model, chosen, config)
    seed = jax.random.key(0) if key is None else key
    return model.replace(adapters=fresh(model, adapter, seed, as_dtype(dtype)), adapter=adapter)


def plain(names: Any) -> Any:
    """A list of names (or numbers) as JSON has it; a string that is no name is a regular expression and stays one."""
    if isinstance(names, str):
        return [names] if re.fullmatch(r"[\w.]+", names) else names
    return names if names is None or isinstance(names, int) else list(names)


def heads_of(model: Model) -> tuple[str, ...]:
    """The classifiers that are to be trained whole, since they are often new."""
    kinds = {name for names in HEADS.values() for name in names}
    present = {key.partition(".")[0] for key in saved_paths(model, tuple(kinds)).values()}
    return tuple(sorted(kinds & present))


def chosen_targets(model: Model, table: dict[str, Target], config: Mapping[str, Any]) -> list[Target]:
    """What a config's names mean. Raises AdapterError when that is nothing."""
    wanted: Patterns = config["target_modules"]
    wanted = wanted if isinstance(wanted, str) else tuple(wanted)
    whole = config["modules_to_save"] or ()
    left = {t.name: t for t in table.values() if not any(inside(w, name) for w in whole for name in t.names)}
    excluded = config["exclude_modules"]
    excluded = excluded if excluded is None or isinstance(excluded, str) else tuple(excluded)
    chosen = [t for t in choose(left, wanted, model, excluded) if in_layers(config, t.name)]
    if not chosen:
        raise AdapterError(
            f"{config['target_modules']!r} chooses no module; there are {', '.join(list(table)[:4])}, ..."
        )
    return chosen


def named(given: Any, chosen: list[Target], table: dict[str, Target]) -> Any:
    """The names for adapter_config.json: the caller's where peft would choose the same by them, else in full."""
    patterns = given if isinstance(given, str) else tuple(given)
    if isinstance(patterns, tuple) and all(any(fits((p,), name) for name in table) for p in patterns):
        return list(patterns)
    if isinstance(patterns, str) and any(fits(patterns, name) for name in table):
        return patterns
    return [target.name for target in chosen]


def adapter_of(model: Model, chosen: list[Target], config: Mapping[str, Any], ranks: Mapping[str, int] | None = None):
    """The adapter that a config describes. ranks: of each module, where a file tells them."""
    sites = []
    for target in chosen:
        rank = rank_of(config, target.name) if ranks is None else ranks[target.name]
        sites.append(Site(target.name, target.paths, rank, scale_of(config, target.name, rank), target.embedding))
    saved = saved_paths(model, tuple(config["modules_to_save"] or ()), config["bias"], tuple(sites))
    return Adapter(tuple(sites), tuple(saved), (), float(config["lora_dropout"]), FrozenDict(config))


def fresh(model: Model, adapter: Adapter, key: jax.Array, dtype: Any) -> dict[str, Any]:
    """First values: A random and B zero, the other way round for tables; copies of what is trained whole."""
    boxed = abstract_adapters(model.module, adapter)
    places = leaf_shardings(boxed, model.mesh, model.rules)
    params = flatten(model.params)
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in params.values())
    out: dict[Path, Any] = {}
    for path, leaf in flatten(boxed).items():
        shape, own = tuple(unbox(leaf).shape), params.get(path[1:])
        kind = dtype if own is None else own.dtype
        if abstract:
            out[path] = jax.ShapeDtypeStruct(shape, kind, sharding=None if model.mesh is None else places[path])
        elif own is None:
            out[path] = put(first_values(key, path[1:], shape, adapter).astype(kind), places[path])
        else:
            out[path] = copied(own, path[1:], adapter, places[path])
    return unflatten(out)


def copied(own: Any, path: Path, adapter: Adapter, place: Any) -> jax.Array:
    """A copy of a parameter, or of those of its layers that are trained."""
    own = own.dequantize() if is_quantized(own) else own
    rows = adapter.saved_rows(path)
    whole = not is_stacked(path) or len(rows) == len(own)
    return jax.device_put(jnp.array(own if whole else own[rows], copy=True), place)


def put(value: np.ndarray, place: Any) -> jax.Array:
    """An array of the host where it will live, on one process or several."""
    return jax.make_array_from_callback(value.shape, place, lambda index: value[index])


def first_values(key: jax.Array, path: Path, shape: tuple[int, ...], adapter: Adapter) -> np.ndarray:
    """One leaf of the collection `lora`, the same in either layout: keys come from each module's name."""
    sites = adapter.sites_at(path[:-1])
    embedding = next(site.embedding for site in sites if site is not None)
    if (path[-1] == "a") == embedding:
        return np.zeros(shape, np.float32)
    seeds = np.array([zlib.crc32(site.module.encode()) & 0x7FFFFFFF if site else 0 for site in sites])
    ranks = np.array([site.rank if site else 0 for site in sites])
    count, width = shape[-2:] if path[-1] == "a" else shape[:-3:-1]
    values = np.asarray(drawn(key, seeds, ranks, count=count, width=width, embedding=embedding))
    values = values if path[-1] == "a" else values.swapaxes(-1, -2)
    return values if is_stacked(path) else values[0]


@partial(jax.jit, static_argnames=("count", "width", "embedding"))
def drawn(key: jax.Array, seeds: jax.Array, ranks: jax.Array, *, count: int, width: int, embedding: bool) -> jax.Array:
    """Rows [layers,rank,width] as torch begins them: a table's are normal, a matrix's kaiming_uniform(a=sqrt(5))."""

    uniform = partial(jax.random.uniform, minval=-(width**-0.5), maxval=width**-0.5)
    draw = jax.random.normal if embedding else uniform

    def row(seed: jax.Array, rank: jax.Array, n: jax.Array) -> jax.Array:
        values = draw(jax.random.fold_in(jax.random.fold_in(key, seed), n), (width,))
        return jnp.where(n < rank, values, 0.0)

    return jax.vmap(lambda seed, rank: jax.vmap(lambda n: row(seed, rank, n))(jnp.arange(count)))(seeds, ranks)
