"""Write the tables of results/*.json into README.md, between the marks that name them.

python benchmarks/write_tables.py
"""

import importlib
import json
import re
from pathlib import Path

from measure import RESULTS

README = Path(__file__).parent / "README.md"
SCRIPTS = ("train", "checkpoints", "data", "kernels")
MARKED = "<!-- {0} -->\n.*?<!-- end of {0} -->"


def section(script: str) -> str | None:
    """What stands between the marks of a script; None where it has no results."""
    path = RESULTS / f"{script}.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items() if name in ("jax", "torch"))
    said = f"`{record['command']}`, {record['hardware']}, {versions} (`results/{script}.json`)."
    return f"{said}\n\n{importlib.import_module(script).report(record['rows'])}"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    for script in SCRIPTS:
        if (found := section(script)) is None:
            print(f"{script}: no results yet")
            continue
        new = f"<!-- {script} -->\n\n{found}\n\n<!-- end of {script} -->"
        text, count = re.subn(MARKED.format(script), lambda _, new=new: new, text, flags=re.DOTALL)
        print(f"{script}: {'written' if count else 'README.md has no marks for it'}")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
