"""Averages of parameters: exponential ones beside the training, and the model to evaluate in the end."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.hub.model import Model
from jaxformers.training.state import TrainState
from jaxformers.training.trainable import pick, put, word

Decay = float | Callable[[jax.Array], Any]


def updated(ema: Any, tree: Any, decay: Decay, step: jax.Array) -> Any:
    """decay * average + (1 - decay) * value, for each leaf."""
    rate = decay(step) if callable(decay) else decay
    return jax.tree.map(lambda old, new: old + (1.0 - rate) * (new.astype(old.dtype) - old), ema, tree)


def warmed(decay: float) -> Callable[[jax.Array], jax.Array]:
    """A decay that starts low, min(decay, (1 + step) / (10 + step)), so that the first values are soon forgotten."""
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def evaluation_model(state: TrainState) -> Model:
    """The model to evaluate and to save: with averages where training keeps some (`ema`, schedule-free ones)."""
    if state.ema is not None:
        return put(state.model, state.ema)
    free = [s for s in jax.tree.leaves(state.opt_state, is_leaf=is_schedule_free) if is_schedule_free(s)]
    if not free:
        return state.model
    return put(state.model, averaged_free(free[0], state))


def is_schedule_free(x: Any) -> bool:
    """Whether this is the state of a schedule-free optimiser."""
    return isinstance(x, optax.contrib.ScheduleFreeState)


def averaged_free(free: Any, state: TrainState) -> Any:
    """The averages behind a schedule-free optimiser's parameters."""
    paths = frozenset(tuple(map(word, path)) for path, _ in jax.tree_util.tree_leaves_with_path(free.z))
    return optax.contrib.schedule_free_eval_params(free, pick(state.model, paths))
