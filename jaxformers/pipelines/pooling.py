"""From one vector per token to one per text: the stages a sentence-transformers checkpoint lists in modules.json."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.config import read_json
from jaxformers.core.errors import CheckpointError
from jaxformers.hub import safetensors


def cls(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """The first token's vector. hidden [B,T,D], mask [B,T] of 0 and 1; texts are padded on the right."""
    return hidden[:, 0]


def largest(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask[..., None] > 0, hidden, -1e9).max(axis=1)


def mean(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.einsum("btd,bt->bd", hidden, mask) / jnp.maximum(mask.sum(axis=1, keepdims=True), 1e-9)


def mean_sqrt_len(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.einsum("btd,bt->bd", hidden, mask) / jnp.sqrt(jnp.maximum(mask.sum(axis=1, keepdims=True), 1e-9))


def weighted_mean(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean with weights 1, 2, 3, ... so that later tokens, which have seen more, count more."""
    return mean(hidden, mask * jnp.arange(1, mask.shape[1] + 1))


def last_token(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    last = jnp.maximum(mask.sum(axis=1).astype(jnp.int32) - 1, 0)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


# In the order in which sentence-transformers joins them: (name in new files, key in old files, function).
MODES = (
    ("cls", "pooling_mode_cls_token", cls),
    ("max", "pooling_mode_max_tokens", largest),
    ("mean", "pooling_mode_mean_tokens", mean),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", mean_sqrt_len),
    ("weightedmean", "pooling_mode_weightedmean_tokens", weighted_mean),
    ("lasttoken", "pooling_mode_lasttoken", last_token),
)
FUNCTIONS = {name: function for name, _, function in MODES}
KEYS = {key for _, key, _ in MODES}
ACTIVATIONS = {"Identity": jnp.asarray, "Tanh": jnp.tanh, "ReLU": jax.nn.relu, "Sigmoid": jax.nn.sigmoid}


@struct.dataclass
class Pooling:
    """One vector per text, the chosen poolings side by side; sums are taken in float32."""

    modes: tuple[str, ...] = struct.field(pytree_node=False, default=("mean",))

    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        hidden, mask = hidden.astype(jnp.float32), mask.astype(jnp.float32)
        return jnp.concatenate([FUNCTIONS[mode](hidden, mask) for mode in self.modes], axis=-1)


@struct.dataclass
class Dense:
    """y = activation(x @ kernel + bias)."""

    kernel: jax.Array
    bias: jax.Array | None
    activation: str = struct.field(pytree_node=False, default="Tanh")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x @ self.kernel
        return ACTIVATIONS[self.activation](x if self.bias is None else x + self.bias)


@struct.dataclass
class Normalize:
    """Scale to length one."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@struct.dataclass
class Stages:
    """What follows the transformer, in order. `prompted` is False where pooling must leave a prompt's tokens out."""

    pooling: Pooling = Pooling()
    rest: tuple[Dense | Normalize, ...] = ()
    prompted: bool = struct.field(pytree_node=False, default=True)

    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.pooling(hidden, mask)
        for stage in self.rest:
            x = stage(x)
        return x


def read_stages(folder: Path) -> Stages:
    """Read modules.json; a plain checkpoint without one gets the mean of its tokens, which is also their default."""
    file = folder / "modules.json"
    if not file.exists():
        return Stages()
    pooling, rest, prompted = None, [], True
    for kind, path in listed(file):
        if kind == "Transformer" and pooling is None:
            continue
        if kind == "Pooling" and pooling is None:
            config = read_json(path)
            pooling, prompted = read_pooling(config, path), config.get("include_prompt", True)
        elif kind == "Dense" and pooling is not None:
            rest.append(read_dense(path))
        elif kind == "Normalize" and pooling is not None:
            rest.append(Normalize())
        else:
            raise CheckpointError(
                f"{file}: found stage {kind!r}; expected Transformer, Pooling, then Dense or Normalize. "
                "Take last_hidden_state from AutoModel and write this stage yourself."
            )
    if pooling is None:
        raise CheckpointError(f"{file}: found no Pooling stage; expected one after the Transformer")
    return Stages(pooling, tuple(rest), prompted)


def listed(file: Path) -> list[tuple[str, Path]]:
    """Kind and folder of every stage. Raises CheckpointError if the file says something else."""
    try:
        stages = json.loads(file.read_text(encoding="utf-8"))
        return [(stage["type"].rpartition(".")[2], file.parent / stage["path"]) for stage in stages]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: expected a list of stages with type and path ({error!r}); save it again"
        ) from error


def read_pooling(config: Mapping[str, object], path: Path) -> Pooling:
    """Read 1_Pooling/config.json, in its new form (one name) or its old one (a switch for each mode)."""
    named = config.get("pooling_mode")
    if named is not None:
        modes = tuple([named] if isinstance(named, str) else named)  # type: ignore[arg-type]
    else:
        modes = tuple(name for name, key, _ in MODES if config.get(key))
    unknown = [mode for mode in modes if mode not in FUNCTIONS]
    unknown += [key for key, on in config.items() if key.startswith("pooling_mode_") and on and key not in KEYS]
    if unknown or not modes:
        found = unknown or "no pooling mode"
        raise CheckpointError(f"{path / 'config.json'}: found {found}; expected one or more of {list(FUNCTIONS)}")
    return Pooling(modes)


def read_dense(path: Path) -> Dense:
    """Read a Dense stage: config.json and model.safetensors."""
    config = read_json(path)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise CheckpointError(f"{path}: found activation {activation!r}; expected one of {list(ACTIVATIONS)}")
    tensors = safetensors.read(path / "model.safetensors")
    bias = jnp.asarray(tensors["linear.bias"]) if "linear.bias" in tensors else None
    return Dense(jnp.asarray(tensors["linear.weight"].T), bias, activation)
