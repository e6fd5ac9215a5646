"""Write the generated parts of the documentation: the table of model types, and the measured parity.

    make docs-table                                 # README.md from the registry, docs/parity.md from docs/parity.json
    .venv/bin/python docs/table.py --measure        # runs tests/parity first and writes docs/parity.json
    .venv/bin/python docs/table.py --measure --only "Llama or Bert"    # keeps the figures of other classes

Nothing in these tables is typed by hand.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README, PARITY, FIGURES = ROOT / "README.md", ROOT / "docs" / "parity.md", ROOT / "docs" / "parity.json"
MARKS = ("<!-- types -->", "<!-- /types -->")
COMMAND = ".venv/bin/python docs/table.py --measure"
PACKAGES = ("jax", "flax", "numpy", "torch", "transformers")
KINDS = {"text": "text", "vision": "images", "audio": "audio", "multimodal": "text and images"}
DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
INTRO = """# Measured parity

One generic test builds a small random model of each class with PyTorch transformers, perturbs every number in it, loads
it here and compares. A figure is the largest difference over the largest value, over **every output field**: logits,
each layer's hidden state, attentions, cross-attentions, router logits. The test fails at 1e-4.

- *forward*: one call. *padded*: padding left and right, real tokens compared. *scanned*: layers stacked under a scan.
- *cached*: a prompt of four tokens, then token by token, against the full forward.
- *gradient*: of one loss with respect to every parameter.
- *written back*: the tensors we save equal those we read, bit for bit; f32, and bf16 and f16 where they are listed.

A dash says that the row does not check it: a head of a type whose backbone has full rows needs the forward and what is
written back. How to check a checkpoint of yours: `jaxformers parity PATH`.
"""


def main() -> None:
    """Read the options, measure if asked, write both files."""
    parser = argparse.ArgumentParser(description="Write the generated tables of README.md and docs/parity.md.")
    parser.add_argument("--measure", action="store_true", help="run tests/parity first, which takes minutes")
    parser.add_argument("--only", default="", help="measure the classes that match this pytest -k expression")
    parser.add_argument("--report", type=Path, help="use what a passing run wrote: PARITY_REPORT=FILE make test")
    options = parser.parse_args()
    if options.report:
        lines = [json.loads(line) for line in options.report.read_text().splitlines()]
        FIGURES.write_text(json.dumps(figures_of(lines), indent=1, sort_keys=True) + "\n")
    if options.measure:
        old = json.loads(FIGURES.read_text()) if options.only and FIGURES.exists() else None
        figures = merge(old, measure(options.only))
        FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
        print(f"wrote {FIGURES.relative_to(ROOT)}")
    README.write_text(with_types(README.read_text()))
    PARITY.write_text(parity_page(json.loads(FIGURES.read_text())))
    print(f"wrote {README.relative_to(ROOT)} and {PARITY.relative_to(ROOT)}")


def families() -> dict[str, tuple[str, Any]]:
    """{model type: (file, family)}. Exits with a message naming the types that cannot be imported."""
    from jaxformers.models import MODEL_TYPES, family_of

    found, broken = {}, []
    for name, file in MODEL_TYPES.items():
        try:
            found[name] = (file, family_of(name))
        except Exception as error:
            broken.append(f"  {name}: {type(error).__name__}: {error}")
    if broken:
        lines = "\n".join(broken)
        sys.exit(f"MODEL_TYPES in jaxformers/models/__init__.py names types whose family does not load:\n{lines}")
    return found


def types_table() -> str:
    """Model types and what loads them, from the registry."""
    lines = []
    for folder, kind in KINDS.items():
        rows = [(name, family) for name, (file, family) in families().items() if file.startswith(folder + ".")]
        lines += [f"**{kind.capitalize()}** ({len(rows)})", "", "| model type | base class | heads |", "|---|---|---|"]
        for name, family in sorted(rows):
            heads = ", ".join(sorted(family.tasks)) or "-"
            lines.append(f"| `{name}` | {family.architecture} | {heads} |")
        lines.append("")
    return "\n".join(lines)


def with_types(text: str) -> str:
    """README.md with the table between its marks. Raises ValueError when the marks are missing."""
    start, stop = (text.find(mark) for mark in MARKS)
    if not 0 <= start < stop:
        raise ValueError(f"README.md must hold {MARKS[0]} and then {MARKS[1]}; the table goes between them")
    return f"{text[: start + len(MARKS[0])]}\n\n{types_table()}\n{text[stop:]}"


def measure(only: str = "") -> dict[str, Any]:
    """Run the parity tests and gather the figures they report. Exits when a test fails: then nothing is written."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        report.touch()
        command = [sys.executable, "-m", "pytest", "-q", "tests/parity/test_families.py", "-k", only]
        environment = {**os.environ, "PARITY_REPORT": str(report), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, cwd=ROOT, env=environment)
        if done.returncode:
            sys.exit("the parity tests fail, so there is nothing to report; docs/parity.json is as it was")
        return figures_of([json.loads(line) for line in report.read_text().splitlines()])


def figures_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What docs/parity.json holds: the figures with their date, hardware and versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "rows": gather(lines),
    }


def merge(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """New figures in place of old ones of the same class and options. Exits when they were made with other versions."""
    if old is None:
        return new
    if (old["versions"], old["hardware"]) != (new["versions"], new["hardware"]):
        sys.exit("docs/parity.json was measured with other versions or hardware: measure again without --only")
    rows = {(r["class"], r["options"], r["task"]): r for r in (*old["rows"], *new["rows"])}
    return {**new, "rows": sorted(rows.values(), key=order)}


def order(row: dict[str, Any]) -> tuple:
    """By type, base classes before heads."""
    return row["type"], row["task"] != "base", row["class"], row["options"]


def gather(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each class and option set: {what was compared: worst error}."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in lines:
        task = line["task"] or "base"
        new = {"type": line["type"], "class": line["class"], "options": line["options"], "task": task}
        row = rows.setdefault((line["class"], line["options"], task), {**new, "errors": {}})
        worst = max(line["errors"].values(), default=0.0)
        row["errors"][line["what"]] = max(worst, row["errors"].get(line["what"], 0.0))
    return sorted(rows.values(), key=order)


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def parity_page(figures: dict[str, Any]) -> str:
    """docs/parity.md from the committed figures."""
    rows = figures["rows"]
    worst = max(error for row in rows for error in row["errors"].values())
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    made = f"Measured {figures['date']} on {figures['hardware']}, with {versions}:\n\n```sh\n{COMMAND}\n```\n"
    total = f"{len(rows)} option sets of {len({r['class'] for r in rows})} classes; the largest error is {worst:.1e}.\n"
    head = "| type | class | options | forward | padded | scanned | cached | gradient | written back |\n"
    return "\n".join([INTRO, made, total, head + "|---|---|---|---|---|---|---|---|---|", *map(parity_row, rows), ""])


def parity_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    errors = row["errors"]

    def worst(*starts: str, padded: bool | None = None) -> str:
        found = [
            error
            for what, error in errors.items()
            if what.startswith(starts) and (padded is None or what.endswith(("left", "right")) == padded)
        ]
        return f"{max(found):.0e}" if found else "-"

    cells = [
        f"`{row['type']}`",
        row["class"],
        row["options"],
        worst("per layer", padded=False),
        worst("per layer", "scanned", padded=True),
        worst("scanned", padded=False),
        worst("cached"),
        worst("gradient"),
        ", ".join(written_back(errors)),
    ]
    return f"| {' | '.join(cells)} |"


def written_back(errors: dict[str, float]) -> list[str]:
    """Precisions whose round trip was checked. The tests stop at the first changed byte, so what ran was equal."""
    return [short for name, short in DTYPES.items() if f"written back, {name}" in errors] or ["-"]


if __name__ == "__main__":
    main()
