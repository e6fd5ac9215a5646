"""How everything here is timed: side by side in one run, medians, an A/A pair by every ratio, on a quiet machine."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
QUIET = 0.1  # cores that others may use


def others_cores(seconds: float = 2.0) -> float:
    """How many cores other processes used while we slept."""

    def busy() -> float:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(x) for x in file.readline().split()[1:]]
        return (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")

    mine, all_, start = time.process_time(), busy(), time.monotonic()
    time.sleep(seconds)
    used = busy() - all_ - (time.process_time() - mine)
    return max(used, 0.0) / (time.monotonic() - start)


def refuse_when_busy() -> None:
    """Exit with a message when the machine is not ours alone; numbers taken then would mean nothing."""
    used = others_cores()
    if used > QUIET:
        print(
            f"other processes use {used:.2f} cores; a benchmark needs a quiet machine (at most {QUIET})",
            file=sys.stderr,
        )
        raise SystemExit(3)


def hardware() -> str:
    """The processor and how many cores there are."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Versions of what is compared."""
    from importlib.metadata import version

    return {name: version(name) for name in ("jax", "jaxlib", "flax", "torch", "transformers")}


def side_by_side(
    cases: Mapping[str, Callable[[], Any]], rounds: int = 7, least: float = 0.25
) -> dict[str, list[float]]:
    """Seconds of one call, by case and round. Every round runs each case for `least` seconds, in turning order."""
    for call in cases.values():
        call()
        call()
    out: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for n in range(rounds):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            time.sleep(0.02)  # let the other side's threads fall asleep
            calls, start = 0, time.perf_counter()
            while time.perf_counter() - start < least or calls < 1:
                cases[name]()
                calls += 1
            out[name].append((time.perf_counter() - start) / calls)
    return out


def summary(times: Mapping[str, list[float]], against: str) -> dict[str, dict[str, float]]:
    """Median and least milliseconds by case, and how many times faster than `against` each is (by the medians)."""
    base = statistics.median(times[against])
    return {
        name: {
            "median_ms": 1e3 * statistics.median(t),
            "min_ms": 1e3 * min(t),
            "ratio": base / statistics.median(t),
            "ratio_of_mins": min(times[against]) / min(t),
        }
        for name, t in times.items()
    }


def in_own_process(script: str, *words: str) -> Any:
    """What a script prints last, as JSON, when it is called with these words. Exits with its errors if it fails."""
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(words)} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def reset_peak() -> int:
    """Begin to watch this process's memory anew. Returns its resident bytes now.

    getrusage would not do: its maximum comes down from the process that started this one.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak()


def peak() -> int:
    """The most bytes that were resident since `reset_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def save(name: str, command: str, rows: Any) -> Path:
    """Write a result with its command, hardware and versions."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"command": command, "hardware": hardware(), "versions": versions(), "rows": rows}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
