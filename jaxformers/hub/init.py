"""Fresh parameters by transformers' initialisation scheme, the same values in either layout and on any mesh."""

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from jaxformers.core import sharding
from jaxformers.core.config import Config
from jaxformers.core.keymap import logical_path
from jaxformers.hub.abstract import Path, flatten, unbox
from jaxformers.hub.load import leaf_shardings
from jaxformers.models import Family
from jaxformers.nn.param import Normal

Rules = list[tuple[re.Pattern[str], Callable]]


def init_rules(family: Family, config: Config) -> Rules:
    """Patterns of logical paths and their initialisers; the first match wins."""
    own: Mapping[str, Callable] = {} if family.init is None else family.init(config)
    rules = [(re.compile(pattern), init) for pattern, init in own.items()]
    std = getattr(config, "initializer_range", None)
    if std is not None:
        rules.append((re.compile(r"(kernel|embedding)$"), Normal(std)))
    return rules


def init_leaf(path: Path, own: jax.Array, rules: Rules, key: jax.Array) -> jax.Array:
    """The value of one leaf: by the first rule that names it, else what its module chose itself.

    Keys come from the logical path of each layer, so that both layouts get the same values.
    """
    logical, layers = logical_path(path)
    # To rules a Linear's weight [out, in] is a kernel [in, out] like any other: fans are counted the same way.
    turned = path[-1] == "weight"
    name = logical.removesuffix("weight") + "kernel" if turned else logical
    init = next((i for pattern, i in rules if pattern.search(name)), None)
    if init is None:
        return own
    names = [logical] if layers is None else [logical.format(layer) for layer in layers]
    keys = jnp.stack([jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF) for name in names])
    shape = own.shape if layers is None else own.shape[1:]
    values = jax.vmap(lambda k: init(k, shape[::-1], own.dtype).T if turned else init(k, shape, own.dtype))(keys)
    return values[0] if layers is None else values


def init_params(
    module: nn.Module,
    boxed: Any,
    family: Family,
    config: Config,
    key: jax.Array,
    *,
    mesh: Mesh | None = None,
    rules: sharding.Rules = sharding.FSDP,
    dtype: Any = None,
    only: list[Path] | None = None,
) -> dict[Path, jax.Array]:
    """{path: value} for every leaf, or for the paths in `only`, made where they will live."""
    leaves = flatten(boxed)
    wanted = list(leaves) if only is None else only
    places = leaf_shardings(boxed, mesh, rules)
    patterns = init_rules(family, config)
    inputs = {k: jnp.zeros(v.shape, v.dtype) for k, v in module.dummy_inputs().items()}  # type: ignore[attr-defined]

    def make(key: jax.Array) -> list[jax.Array]:
        own = flatten(module.init(key, **inputs)["params"])
        values = [init_leaf(path, unbox(own[path]), patterns, key) for path in wanted]
        return [v.astype(dtype) if dtype is not None and jnp.issubdtype(v.dtype, jnp.floating) else v for v in values]

    values = jax.jit(make, out_shardings=[places[p] for p in wanted])(key)
    return dict(zip(wanted, values, strict=True))
