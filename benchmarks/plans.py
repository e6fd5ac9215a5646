"""`jaxformers plan` of every recipe for the machine that it names: memory, bounds of a step, and what compiling costs.

    python benchmarks/plans.py [--only NAME ...]

Seconds are of the processor, so that a busy machine changes them little. docs/planning.md has the table.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import RESULTS, save, table

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GIB = 2**30
HEADER = ["recipe", "topology", "mesh", "GiB of state", "GiB in all", "of", "step, ms", "MFU at most", "CPU s"]


def plan(path: Path) -> dict[str, Any]:
    """The figures of a recipe, and the processor's seconds."""
    topology = re.search(r"--topology (\S+)", path.read_text(encoding="utf-8"))
    assert topology, f"{path} names no topology in its first lines"
    command = [sys.executable, "-m", "jaxformers.cli", "plan", str(path), "--topology", topology[1], "--json"]
    begun = used()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"{path.stem}: {done.stderr[-2000:]}")
    return json.loads(done.stdout) | {"recipe": path.stem, "cpu_s": used() - begun, "date": date.today().isoformat()}


def used() -> float:
    """Processor seconds of all programs that ended so far."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def row(found: dict[str, Any]) -> list[str]:
    """One recipe's line."""
    memory, step, mfu = found["memory"], found["step_s"], found["mfu"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1)
    state = memory["parameters"] + memory["optimizer"]
    all_ = f"{memory['used'] / GIB:.1f}" if found["needed"] is None else "too much"
    times = f"{step['overlapped'] * 1e3:.0f} to {step['serial'] * 1e3:.0f}"
    there = f"{memory['there'] / GIB:.2f}"
    shares = f"{mfu['overlapped']:.0%} to {mfu['serial']:.0%}"
    name, place = f"`{found['recipe']}`", found["topology"]
    return [name, place, mesh, f"{state / GIB:.2f}", all_, there, times, shares, f"{found['cpu_s']:.0f}"]


def main() -> None:
    """Plan, print, and keep the figures of the other recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a recipe's name; may be repeated")
    only = parser.parse_args().only
    kept = RESULTS / "plans.json"
    rows = {one["recipe"]: one for one in json.loads(kept.read_text())["rows"]} if kept.exists() else {}
    names = only or sorted(path.stem for path in CONFIGS.glob("*.toml"))
    for name in names:
        rows[name] = plan(CONFIGS / f"{name}.toml")
        print(" | ".join(row(rows[name])), file=sys.stderr, flush=True)
        save("plans", "python benchmarks/plans.py", [rows[key] for key in sorted(rows)])
    print(table(HEADER, [row(rows[key]) for key in sorted(rows)]))
    print("\n" + ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "libtpu")))


if __name__ == "__main__":
    main()
