"""The documentation is true: its tables are what the code says now, its links lead somewhere, its examples run."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from jaxformers import models
from jaxformers.models import MODEL_TYPES
from tests.hub import tiny

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# A block marked python is run; one that only shows a piece of a file is marked py.
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def load_table():
    """docs/table.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_table", ROOT / "docs" / "table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = load_table()


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_table_of_types_is_what_the_registry_says():
    text = table.README.read_text()
    assert table.with_types(text) == text, "README.md's table is old: run make docs-table"
    for model_type in MODEL_TYPES:
        assert f"| `{model_type}` |" in text, f"{model_type} is in no folder that docs/table.py lists"


def test_the_page_of_figures_is_what_was_measured():
    page = table.parity_page(json.loads(table.FIGURES.read_text()))
    assert table.PARITY.read_text() == page, "docs/parity.md is old: run make docs-table"


def test_every_type_was_measured():
    """Every type and head has a figure, none above the tolerance."""
    rows = json.loads(table.FIGURES.read_text())["rows"]
    classes = {row["class"] for row in rows}
    missing = {
        t: sorted({f.architecture, *(task.architecture for task in f.tasks.values())} - classes)
        for t, (_, f) in table.families().items()
    }
    missing = {t: names for t, names in missing.items() if names}
    assert not missing, f"not in docs/parity.json, run docs/table.py --measure: {missing}"
    assert all(error < 1e-4 for row in rows for error in row["errors"].values())


def test_a_type_that_does_not_load_is_named(monkeypatch):
    monkeypatch.setitem(MODEL_TYPES, "no-such", "text.no_such")
    with pytest.raises(SystemExit, match="no-such: ModuleNotFoundError: .*text.no_such"):
        table.families()


def test_figures_are_gathered_by_class_and_options():
    line = {
        "type": "bert",
        "class": "BertModel",
        "options": "default",
        "task": None,
        "what": "per layer, plain",
        "errors": {"a": 1e-7},
    }
    more = [{**line, "errors": {"a": 3e-7, "b": 2e-7}}, {**line, "what": "scanned, left", "errors": {"a": 5e-6}}]
    saved = [{**line, "what": f"written back, {dtype}", "errors": {}} for dtype in ("float32", "float16")]
    (row,) = table.gather([line, *more, *saved])
    assert row["type"] == "bert" and row["errors"]["per layer, plain"] == 3e-7
    assert table.parity_row(row) == "| `bert` | BertModel | default | 3e-07 | 5e-06 | - | - | - | f32, f16 |"
    figures = {"versions": {"jax": "1"}, "hardware": "x", "date": "y", "rows": [row]}
    newer = {**figures, "rows": [{**row, "errors": {"cached, scanned": 1.0}}, {**row, "class": "BertLMHeadModel"}]}
    assert [r["class"] for r in table.merge(figures, newer)["rows"]] == ["BertLMHeadModel", "BertModel"]
    assert table.merge(figures, newer)["rows"][1]["errors"] == {"cached, scanned": 1.0}
    with pytest.raises(SystemExit, match="other versions"):
        table.merge({**figures, "hardware": "z"}, newer)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        if not target.startswith(("https://", "#")):
            file = page.parent / target.partition("#")[0]
            assert file.exists(), f"{name(page)} links to {target}, which is not there"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, tiny_bert) -> Path:
    """A folder with the checkpoints that the pages speak of."""
    folder = tmp_path_factory.mktemp("pages")
    torch.set_num_threads(1)
    shutil.copytree(tiny_bert, folder / "bert")
    tiny.llama(folder / "llama", num_hidden_layers=2)
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=name)
def test_examples_run(page, checkpoints, monkeypatch):
    """The python blocks of a page, one after the other, as a reader would type them."""
    monkeypatch.chdir(checkpoints)
    # Line numbers as in the page, so that an error points to it.
    space: dict = {"__name__": "page"}
    try:
        for block in BLOCK.finditer(page.read_text()):
            line = page.read_text()[: block.start(1)].count("\n")
            exec(compile("\n" * line + block[1], str(page), "exec"), space)
    finally:
        for model_type in set(models._FAMILIES) - set(MODEL_TYPES):
            del models._FAMILIES[model_type]  # a page registers a type of its own


def test_the_readme_has_examples():
    assert len(BLOCK.findall((ROOT / "README.md").read_text())) >= 5
