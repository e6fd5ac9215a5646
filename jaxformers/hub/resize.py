"""A model for another number of tokens: rows of its word tables kept, added or cut off."""

from __future__ import annotations

import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.adapter import SAVED
from jaxformers.core.config import Config
from jaxformers.core.keymap import logical_path
from jaxformers.hub.abstract import Path, abstract_params, flatten, unbox, unflatten
from jaxformers.hub.adapted import abstract_adapters
from jaxformers.hub.init import init_params
from jaxformers.hub.layout import relayout
from jaxformers.hub.load import leaf_shardings
from jaxformers.hub.model import Model
from jaxformers.models import Blueprint, blueprint
from jaxformers.nn.stack import Stack

SPREAD = 1e-9  # of the old rows' covariance, for new rows; transformers, modeling_utils.py


def resize_token_embeddings(
    model: Model,
    new_num_tokens: int,
    pad_to_multiple_of: int | None = None,
    mean_resizing: bool = True,
    *,
    key: jax.Array | None = None,
) -> Model:
    """Return the model with `new_num_tokens` rows in its word embedding and language-model head; usually
    `len(tokenizer)` after adding tokens. The model given is left as it is.

    New rows lie close to the mean of the old ones, so that they hardly change what is predicted, or are initialised as
    in a fresh model with mean_resizing=False; a bias goes on with its mean. Raises ValueError when the model has no
    words.
    """
    if new_num_tokens < 1:
        raise ValueError(f"a model needs at least one token, not {new_num_tokens}")
    multiple = pad_to_multiple_of or 1
    size = -(-new_num_tokens // multiple) * multiple
    config = with_vocab_size(model.config, size)
    if config == model.config:
        return model
    plan = blueprint(config, model.task)
    module = relayout(plan.module, **_layout(model.module))
    boxed = abstract_params(module)
    old, wanted = flatten(model.params), {path: unbox(leaf).shape for path, leaf in flatten(boxed).items()}
    _check_same_tree(old, wanted)
    changed = [path for path, shape in wanted.items() if old[path].shape != shape]
    key = jax.random.key(0) if key is None else key
    static = model._static
    rules: dict[str, Any] = {"mesh": static.mesh, "rules": static.rules}
    fresh = {} if mean_resizing else init_params(module, boxed, plan.family, config, key, only=changed, **rules)
    places = leaf_shardings(boxed, static.mesh, static.rules)
    new = dict(old)
    for path in changed:
        rows = _resized(old[path], wanted[path], fresh.get(path), _own_key(key, path), _starts_at_zero(plan, path))
        new[path] = jax.device_put(rows, places[path])
    resized = model.replace(params=unflatten(new), module=module, config=config)
    return resized if model.adapters is None else resized.replace(adapters=resized_adapters(resized, new))


def resized_adapters(model: Model, params: dict[Path, jax.Array]) -> Any:
    """The adapters at their new shapes: zeros for new words, new rows of the parameters for what is trained whole."""
    assert model.adapter is not None
    boxed = abstract_adapters(model.module, model.adapter)
    places, old = leaf_shardings(boxed, model.mesh, model.rules), flatten(model.adapters)
    out = {}
    for path, wanted in flatten(boxed).items():
        shape, leaf = unbox(wanted).shape, old[path]
        if leaf.shape != shape:
            kept = tuple(slice(0, min(n, m)) for n, m in zip(shape, leaf.shape, strict=True))
            base = params[path[1:]] if path[0] == SAVED else jnp.zeros(shape)
            leaf = jax.device_put(base.astype(leaf.dtype).at[kept].set(leaf[kept]), places[path])
        out[path] = leaf
    return unflatten(out)


def with_vocab_size(config: Config, size: int) -> Config:
    """Return the config with another number of tokens. Raises ValueError when it has none."""
    if hasattr(config, "vocab_size"):
        return config.replace(vocab_size=size)
    inner = getattr(config, "text_config", None)
    if inner is None or not hasattr(inner, "vocab_size"):
        raise ValueError(f"{config.model_type} reads no words: its config has no vocab_size")
    return config.replace(text_config=inner.replace(vocab_size=size))


def _layout(module: Any) -> dict[str, Any]:
    """Return how the layers of a module are stacked."""
    if isinstance(module, Stack):
        return {"scan": module.scan, "remat": module.remat, "microbatches": module.microbatches}
    children = module if isinstance(module, tuple) else vars(module).values() if isinstance(module, nn.Module) else ()
    for child in children:
        if isinstance(child, (nn.Module, tuple)) and (found := _layout(child)):
            return found
    return {}


def _check_same_tree(old: dict[Path, Any], wanted: dict[Path, tuple[int, ...]]) -> None:
    if set(old) != set(wanted):
        odd = sorted("/".join(path) for path in set(old) ^ set(wanted))
        raise ValueError(f"the model's parameters are not those of its config: {odd[:3]}; resize before changing them")
    for path, shape in wanted.items():
        if not hasattr(old[path], "at"):
            raise ValueError(f"{'/'.join(path)} is not a plain array: resize a model before quantising it")
        if sum(a != b for a, b in zip(old[path].shape, shape, strict=True)) > 1:
            raise ValueError(
                f"{'/'.join(path)} of shape {old[path].shape} cannot become {shape}: more than rows differ"
            )


def _resized(old: jax.Array, shape: tuple[int, ...], fresh: jax.Array | None, key: jax.Array, zero: bool) -> jax.Array:
    """Return `old` with another length on the axis where the shapes differ."""
    axis = next(i for i, (a, b) in enumerate(zip(old.shape, shape, strict=True)) if a != b)
    rows = jnp.moveaxis(old, axis, 0)
    count = shape[axis] - len(rows)
    if count < 0:
        return jnp.moveaxis(rows[: shape[axis]], 0, axis)
    if zero:
        added = jnp.zeros((count, *rows.shape[1:]), old.dtype)
    elif fresh is not None:
        added = jnp.moveaxis(fresh, axis, 0)[len(rows) :]
    else:
        flat = rows.reshape(len(rows), -1).astype(jnp.float32)
        added = _near_mean(flat, count, key).reshape(count, *rows.shape[1:])
    return jnp.moveaxis(jnp.concatenate([rows, added.astype(old.dtype)]), 0, axis)


def _near_mean(rows: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """Draw rows around the mean [D] with a trace of the covariance, none where it has no full rank."""
    mean = rows.mean(0)
    if rows.shape[1] == 1:  # a bias
        return mean + SPREAD * rows.std(0, ddof=1) * jax.random.normal(key, (count, 1))
    centred = rows - mean
    root = jnp.linalg.cholesky(SPREAD * (centred.T @ centred) / len(rows))
    noise = jax.random.normal(key, (count, rows.shape[1])) @ root.T
    return mean + jnp.where(jnp.isfinite(root).all(), noise, 0.0)


def _own_key(key: jax.Array, path: Path) -> jax.Array:
    return jax.random.fold_in(key, zlib.crc32("/".join(path).encode()) & 0x7FFFFFFF)


def _starts_at_zero(plan: Blueprint, path: Path) -> bool:
    """Whether a leaf is one that training leaves at zero, such as BART's bias of the words."""
    return any(re.search(pattern, logical_path(path)[0]) for pattern in plan.family.constants)
