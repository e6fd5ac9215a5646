"""What the processes of a run must agree on before they go on: one answer for all, or an error on all."""

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from jaxformers.core.errors import CheckpointError

T = TypeVar("T")


def all_succeed(work: Callable[[], T], failure: type[Exception]) -> T:
    """Do work that needs no other process. If it fails on any, raise `failure` on every one."""
    result, problem = None, None
    try:
        result = work()
    except CheckpointError:
        raise  # of another version or model: every process finds the same
    except Exception as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
    if problem is not None:
        clear_away()
    failed = anywhere(problem is not None)
    if failed:
        raise failure(problem or elsewhere(failed))
    return result  # type: ignore[return-value]


def elsewhere(failed: int) -> str:
    return f"it failed on {failed} of {jax.process_count()} processes, not on this one: do all see the same folder?"


def clear_away() -> None:
    """Collect what a failed read or write left, quietly.

    orbax's unfinished coroutines raise when they are collected: at any later moment they would print pages, and CPython
    3.11 breaks when that moment is in `compile`.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook


def anywhere(flag: bool) -> int:
    """On how many processes a flag is set; every process must ask."""
    if jax.process_count() == 1:
        return int(flag)
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.array(flag, np.int32)).sum())


def from_first(numbers: list[int]) -> list[int]:
    """The first process's list of numbers, on every process."""
    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    padded = np.resize(np.array([*numbers, 0], np.int32), count + 1)
    return [int(n) for n in multihost_utils.broadcast_one_to_all(padded)[:count]]


def first_line(error: BaseException) -> str:
    """What an error says, in one line that fits a log."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
