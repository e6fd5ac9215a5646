"""Starting is cheap: nothing heavy is imported before it is used."""

import subprocess
import sys
import time

import pytest

import jaxformers

HEAVY = ("jax", "flax", "torch", "transformers", "tensorflow", "orbax", "optax", "tokenizers", "rich")


def heavy_after(code: str) -> list[str]:
    """The heavy packages that a fresh process holds after running `code`."""
    probe = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()


def test_import_is_free():
    assert heavy_after("import jaxformers; dir(jaxformers); jaxformers.__version__") == []


def test_a_model_needs_no_other_framework():
    loaded = heavy_after("import jaxformers; jaxformers.AutoModel; jaxformers.Model; jaxformers.AutoTokenizer")
    assert not {"torch", "transformers", "tensorflow"} & set(loaded)


@pytest.mark.parametrize("name", sorted(set(dir(jaxformers)) - set(vars(jaxformers))))
def test_every_public_name_exists(name):
    assert getattr(jaxformers, name) is not None


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
