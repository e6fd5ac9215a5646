"""Meter: how fast a run is, and how much of its time went into steps."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

GIGABYTE = 1e9


class Meter:
    """Counts samples, tokens and FLOPs, and the time that was lost to other things than steps.

    peak: FLOPs per second of all devices together; None where it is not known, which leaves MFU out.
    """

    def __init__(self, peak: float | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.peak, self.clock = peak, clock
        self.start = self.last = clock()
        self.lost: Counter[str] = Counter()  # seconds since the start, by what they were lost to
        self.recent: Counter[str] = Counter()  # samples, tokens, flops, steps, lost: since the last reading

    def count(self, **amounts: float) -> None:
        """Add the work of a step: samples=, tokens=, flops=."""
        self.recent.update({**amounts, "steps": 1})

    def lose(self, to: str, seconds: float) -> None:
        """Seconds in which no step ran."""
        self.lost[to] += seconds
        self.recent["lost"] += seconds

    @contextmanager
    def losing(self, to: str) -> Iterator[None]:
        """Time the block as lost: compilation, data, evaluation, checkpoint."""
        begun = self.clock()
        try:
            yield
        finally:
            self.lose(to, self.clock() - begun)

    def goodput(self) -> float:
        """The share of all time so far in which steps ran."""
        return max(0.0, 1 - sum(self.lost.values()) / max(self.clock() - self.start, 1e-9))

    def read(self) -> dict[str, float]:
        """Rates since the last reading, time that was lost left out; goodput over the whole run."""
        now, work = self.clock(), self.recent
        seconds = max(now - self.last - work["lost"], 1e-9)
        self.last, self.recent = now, Counter()
        if not work["steps"]:
            return {}
        rates = {"steps_per_second": work["steps"] / seconds, "samples_per_second": work["samples"] / seconds}
        if work["tokens"]:
            rates["tokens_per_second"] = work["tokens"] / seconds
        if work["flops"] and self.peak:
            rates["mfu"] = work["flops"] / seconds / self.peak
        return {name: round(value, 4) for name, value in (rates | {"goodput": self.goodput()}).items()} | memory()


def memory() -> dict[str, float]:
    """The most memory that one of this process's devices has used, in GB; nothing where the platform does not say."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    return {"device_memory_gb": round(max(peaks) / GIGABYTE, 3)} if peaks else {}


def speed(split: str, seconds: float, **amounts: float) -> dict[str, Any]:
    """transformers' speed metrics: `{split}_runtime` and `{split}_{samples, steps, tokens}_per_second`."""
    rates = {f"{split}_{what}_per_second": round(n / seconds, 3) for what, n in amounts.items() if seconds > 0}
    return {f"{split}_runtime": round(seconds, 4), **rates}
