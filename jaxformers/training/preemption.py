"""Machines that are taken away say so before, by a signal: a flag that every process sees at the same step."""

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

import jax

log = logging.getLogger("jaxformers")
EXIT_STATUS = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended; not 0, so it is restarted


class Preemption:
    """Notes a signal to end, to be asked for after every step.

    ```py
    with Preemption() as preemption:
        for batch in data:
            state, metrics = step(state, batch)
            if preemption.reached(number_of_the_step):
                checkpoints.save(state, extra); checkpoints.wait(); raise SystemExit(EXIT_STATUS)
    ```

    Of several processes it is enough that one is told: all get True at the same step, the first that none has passed.
    signals: others that mean the same, such as SIGUSR1 of `sbatch --signal=USR1@90`. A second signal ends at once.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)) -> None:
        self.signals = signals
        self.told: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for one in self.signals:
                if not (one is signal.SIGTERM and serves_preemption()):
                    self._before[one] = signal.signal(one, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before.clear()

    def reached(self, step: int) -> bool:
        """Whether to save and end after this step; every process must ask, for each step once, in order."""
        if not serves_preemption():
            return self.told is not None
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.told is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.told = signal.Signals(number)
        log.warning("%s: the run saves after this step and ends", self.told.name)
        if serves_preemption():
            os.kill(os.getpid(), signal.SIGTERM)  # which jax's own service hears and tells the others


def serves_preemption() -> bool:
    """Whether jax's service of several processes listens for SIGTERM; then the handler is its own."""
    return jax.distributed.is_initialized() and jax.process_count() > 1
