"""Running out of device memory: fewer rows at a time, accumulated more often, for the same steps."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

log = logging.getLogger("jaxformers")
T = TypeVar("T")


def out_of_memory(error: Exception) -> bool:
    """Whether an error is XLA's for memory that was not there, at compilation or at run time."""
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and "RESOURCE_EXHAUSTED" in str(error)


def fitting(run: Callable[[], T], trainer: Any) -> T:
    """Run; while memory is not enough, divide the rows on a device and accumulate as many times more.

    A step keeps its rows, so that the losses are those of the run that did not fit. transformers makes batches smaller.
    """
    while True:
        try:
            return run()
        except Exception as error:
            if not out_of_memory(error) or trainer.rows == 1:
                raise
            part = next(n for n in range(2, trainer.rows + 1) if trainer.rows % n == 0)
            trainer.rows, trainer.accumulate = trainer.rows // part, trainer.accumulate * part
            log.warning(
                "out of device memory: now %d rows on a device, accumulated %d times", trainer.rows, trainer.accumulate
            )
