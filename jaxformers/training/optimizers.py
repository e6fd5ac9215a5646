"""Optimisers by name: optax's, with PyTorch's numbers and weight-decay masks, under optax's or transformers' names."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.core.errors import ConfigError
from jaxformers.training.by_layer import by_layer
from jaxformers.training.masks import by_name, decays, scale_by_layer
from jaxformers.training.optimizer_kinds import KINDS, Made
from jaxformers.training.optimizer_names import SAME, UNSUPPORTED
from jaxformers.training.plateau import ReduceOnPlateau
from jaxformers.training.schedules import Schedule

# They look at a whole matrix, so a layer of a stacked leaf must stand alone.
WHOLE = {"adafactor", "muon", "lamb", "lars", "fromage", "novograd", "sm3", "galore"}
# They need something that a step does not have: a line search's own loop, or noise for each example.
NOT_OURS = {"_deprecated_dpsgd", "dpsgd", "lbfgs", "scale_by_learning_rate", "scale_by_rprop", "scale_by_madgrad"}
NOT_OURS |= {"schedule_free"}


def optimizer(
    name: str,
    learning_rate: float | Schedule | ReduceOnPlateau,
    *,
    weight_decay: float = 0.0,
    decay: Callable[[str], bool] | None = decays,
    layer_decay: float | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """An optimiser by optax's or transformers' name ("adamw", "adamw_torch_fused", "muon", ...).

    weight_decay: decoupled where the optimiser has a decay of its own; else added to the gradient, as PyTorch does.
    decay: which leaves are decayed, by name; None for all, by default all but biases and norms. layer_decay: the rate
    of each layer relative to the one above. options: the optimiser's own, also `betas`. The learning rate stands in
    the state: steps report it, and `set_learning_rate` changes one that is a number. Raises ConfigError for names and
    options that are not understood.
    """
    name = str(getattr(name, "value", name))
    if name in UNSUPPORTED:
        raise ConfigError(f"the optimiser {name!r} cannot be had: {UNSUPPORTED[name]}")
    kind, fixed = SAME.get(name, (name, {}))
    build = builder(kind, name)
    arguments = checked(name, build, weight_decay, decay, with_betas(fixed | options))

    def make(learning_rate: Any) -> optax.GradientTransformation:
        made = build(learning_rate, **arguments)
        made = by_layer(made) if kind in WHOLE else made
        return made if layer_decay is None else optax.chain(made, scale_by_layer(layer_decay))

    rate = learning_rate.rate if isinstance(learning_rate, ReduceOnPlateau) else learning_rate
    return optax.inject_hyperparams(make, hyperparam_dtype=jnp.dtype(jnp.float32))(learning_rate=rate)


def builder(kind: str, name: str) -> Made:
    """The function that makes an optimiser of this kind."""
    if kind in KINDS:
        return KINDS[kind]
    for module in (optax, optax.contrib):
        found = getattr(module, kind, None)
        if inspect.isfunction(found) and kind not in NOT_OURS and "learning_rate" in signature(found):
            return found
    raise ConfigError(f"no optimiser is called {name!r}; there are {', '.join(optimizer_names())}")


def optimizer_names() -> list[str]:
    """Every name that `optimizer` takes."""
    functions = [(n, f) for m in (optax, optax.contrib) for n, f in vars(m).items() if inspect.isfunction(f)]
    own = {n for n, f in functions if "learning_rate" in signature(f) and n not in NOT_OURS}
    return sorted(own | KINDS.keys() | SAME.keys())


def optimizer_options(name: str) -> set[str]:
    """The options of `optimizer` that this one takes, for callers that hold values for many."""
    kind = SAME.get(name, (name, {}))[0]
    taken = signature(builder(kind, name)).keys() - {"learning_rate", "mask", "weight_decay_mask"}
    return taken | ({"betas"} if "b1" in taken else set())


def signature(made: Callable) -> dict[str, Any]:
    """A function's parameters by name."""
    return dict(inspect.signature(made).parameters)


def with_betas(options: dict[str, Any]) -> dict[str, Any]:
    """PyTorch's `betas` as optax's b1, b2 (and b3)."""
    betas = options.get("betas")
    if betas is None:
        return options
    return {k: v for k, v in options.items() if k != "betas"} | {f"b{n}": b for n, b in enumerate(betas, 1)}


def checked(
    name: str, build: Made, weight_decay: float, decay: Callable[[str], bool] | None, options: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a builder. Raises ConfigError for what it does not take."""
    taken = signature(build)
    if "betas" in taken and "b1" in options:  # optax's prodigy and dadapt_adamw
        options = dict(options)
        options["betas"] = (options.pop("b1"), options.pop("b2"))
    if unknown := options.keys() - taken.keys():
        known = ", ".join(k for k in taken if k not in ("learning_rate", "mask", "weight_decay_mask"))
        raise ConfigError(f"the optimiser {name!r} has no option {', '.join(sorted(unknown))}; it has {known}")
    mask = next((k for k in ("mask", "weight_decay_mask") if k in taken), None)
    if "weight_decay" not in taken:
        if weight_decay:
            raise ConfigError(f"the optimiser {name!r} has no weight decay; found weight_decay={weight_decay}")
        return options
    if mask is None and weight_decay and decay is not None:
        raise ConfigError(f"the optimiser {name!r} decays every leaf: say so with decay=None, or weight_decay=0")
    chosen = {} if mask is None or decay is None else {mask: by_name(decay)}
    return {"weight_decay": weight_decay, **chosen, **options}


def learning_rate_of(opt_state: Any) -> jax.Array | None:
    """The rate of the last update, where the optimiser was made by `optimizer` or holds it as optax injects it."""
    rates = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state) if is_rate(path)]
    return rates[0] if rates else None


def set_learning_rate(state: Any, value: float) -> Any:
    """The TrainState with another learning rate. Raises ValueError when a schedule sets it, or nothing holds it."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    if not any(map(is_rate, paths)) or any(is_scheduled(path) for path in paths):
        raise ValueError("a schedule sets the learning rate, or nothing holds it: give jf.optimizer a number")

    def one(path: tuple, leaf: jax.Array) -> jax.Array:
        return jax.device_put(jnp.asarray(value, leaf.dtype), leaf.sharding) if is_rate(path) else leaf

    return state.replace(opt_state=jax.tree_util.tree_map_with_path(one, state.opt_state))


def is_rate(path: tuple) -> bool:
    """Whether a leaf of an optimiser's state is its learning rate."""
    return path_ends(path, "hyperparams", "learning_rate")


def is_scheduled(path: tuple) -> bool:
    """Whether a leaf is the count of a schedule of the learning rate."""
    return path_ends(path[:-1], "hyperparams_states", "learning_rate")


def path_ends(path: tuple, holder: str, name: str) -> bool:
    """Whether a path ends with an attribute and a key."""
    return len(path) >= 2 and getattr(path[-2], "name", None) == holder and getattr(path[-1], "key", None) == name
