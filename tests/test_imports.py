"""Starting is cheap: nothing heavy is imported before it is used."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jaxformers
from jaxformers.hub.auto import TASKS

HEAVY = ("jax", "flax", "torch", "transformers", "tensorflow", "orbax", "optax", "tokenizers", "rich")


def heavy_after(code: str) -> list[str]:
    """The heavy packages that a fresh process holds after running `code`."""
    probe = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()


def test_import_is_free():
    assert heavy_after("import jaxformers; jaxformers.__version__") == []


def test_a_model_needs_no_other_framework():
    loaded = heavy_after("import jaxformers; jaxformers.AutoModel; jaxformers.Model; jaxformers.AutoTokenizer")
    assert not {"torch", "transformers", "tensorflow"} & set(loaded)


@pytest.mark.parametrize("name", sorted(set(dir(jaxformers)) - set(vars(jaxformers))))
def test_every_public_name_exists(name):
    assert getattr(jaxformers, name) is not None


def test_checkers_know_every_auto_class():
    tree = ast.parse(Path(jaxformers.__file__).read_text())
    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    written = {target.id for target in targets if isinstance(target, ast.Name)}
    assert {name for name in written if name.startswith("Auto")} == {f"AutoModelFor{task}" for task in TASKS}


def test_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'Modle'"):
        jaxformers.Modle  # noqa: B018


def test_help_is_quick():
    """Best of several runs, because the machine may be busy with other tests."""
    best = float("inf")
    for _ in range(15):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "jaxformers.cli", "--help"], check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
        if best < 0.3:
            return
    pytest.fail(f"jaxformers --help took {best:.2f} s at best, the limit is 0.3 s")
