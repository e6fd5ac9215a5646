"""Python's standard library as data: its modules, what their docstrings say, and which modules are held out."""

import ast
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

# Folders of the standard library that nobody would read for an answer or an example.
SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "turtledemo",
    "ensurepip",
    "encodings",
    "pydoc_data",
    "__pycache__",
}
HELD_OUT = 12  # one module in so many


def modules() -> Iterator[tuple[str, str]]:
    """The dotted name and the source of every public module, in the order of their files."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if SKIPPED & set(parts) or not all(part.isidentifier() and part[0] != "_" for part in parts):
            continue
        try:
            yield ".".join(parts), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a few are in older encodings
            continue


def held_out(name: str) -> bool:
    """Whether a module is kept for tests: by its topmost name alone, so whole packages are, in every Python."""
    return zlib.crc32(name.partition(".")[0].encode()) % HELD_OUT == 0


def documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """The public definitions at and under a node that say in words what they do: dotted name, first paragraph."""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())  # type: ignore[arg-type]
    if len(text) >= 30:
        yield name, text
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
                yield from documented(child, f"{name}.{child.name}")


def docstrings() -> dict[str, str]:
    """The first paragraph of every public docstring, and the dotted name where it stands first."""
    found: dict[str, str] = {}
    for name, source in modules():
        try:
            tree = ast.parse(source)
        except SyntaxError:  # some distributions keep templates here
            continue
        for where, text in documented(tree, name):
            found.setdefault(text, where)  # the same words at a second place would only repeat themselves
    return found
