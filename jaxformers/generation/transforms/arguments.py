"""Checks of the numbers that callers give; what is traced has no value yet and passes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxformers.core.errors import ConfigError

Array = jax.Array | np.ndarray
Number = float | Array
Whole = int | Array
Tokens = int | Sequence[int] | Array


def number(name: str, value: Any, holds: Callable[[Any], Any], expected: str) -> Any:
    """A float, or an array of floats, for every element of which `holds` is true."""
    if isinstance(value, Tracer):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or not np.all(holds(array)):
        raise ConfigError(f"`{name}` has to be {expected}, but is {value}")
    return float(array) if array.ndim == 0 else value


def whole(name: str, value: Any, least: int) -> Any:
    """An integer, or an array of integers, none below `least`."""
    if isinstance(value, Tracer):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or np.any(array < least):
        raise ConfigError(f"`{name}` has to be an integer of at least {least}, but is {value}")
    return int(array) if array.ndim == 0 else value


def size(name: str, value: Any, least: int = 1) -> int:
    """An integer that the compiled program depends on."""
    if isinstance(value, Tracer):
        raise ConfigError(f"`{name}` is a size, which a compiled program cannot change: give an int, not {value}")
    found = whole(name, value, least)
    if not isinstance(found, int):
        raise ConfigError(f"`{name}` has to be one integer, but is {value}")
    return found


def token_ids(name: str, value: Tokens) -> Array:
    """One token or several as Int [E]."""
    if isinstance(value, Tracer):
        return jnp.reshape(value, -1)
    array = np.asarray(value)
    if array.size and array.dtype.kind not in "iu":
        raise ConfigError(f"`{name}` has to be a token id or a list of them, but is {value}")
    return array.reshape(-1).astype(np.int32)


def some_token_ids(name: str, value: Tokens) -> Array:
    """At least one token, none negative."""
    ids = token_ids(name, value)
    if not ids.size or (not isinstance(ids, Tracer) and np.any(np.asarray(ids) < 0)):
        raise ConfigError(f"`{name}` has to be a list of positive integers, but is {value}")
    return ids


def positive(value: Any) -> Any:
    """Whether a number is above zero and finite."""
    return (value > 0) & (value < math.inf)
