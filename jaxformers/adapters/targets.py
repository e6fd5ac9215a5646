"""Which modules can have an adapter, by the names that PyTorch's model gives them, and which ones are meant by a name.

A module of theirs may be several of ours (a fused q, k and v); the key map tells, as it does for checkpoints.
"""

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxformers.core.adapter import LORA
from jaxformers.core.config import vocabulary
from jaxformers.core.errors import AdapterError
from jaxformers.core.keymap import HOLE, KeyMap, Part, layer_names
from jaxformers.hub.abstract import abstract_variables, flatten, unbox
from jaxformers.hub.model import Model

ALL_LINEAR = "all-linear"
Patterns = str | tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """One module of PyTorch's model: its names, the first is transformers' own, and what it is made of here."""

    names: tuple[str, ...]
    paths: tuple[str, ...]
    parts: tuple[Part, ...]
    inputs: int
    outputs: tuple[int, ...]  # of each part
    embedding: bool
    tied: bool  # a table that the language-model head reads as well

    @property
    def name(self) -> str:
        """transformers' name."""
        return self.names[0]

    @property
    def size(self) -> int:
        """How many outputs it has in all."""
        return sum(self.outputs)

    def rows(self, n: int, whole: np.ndarray) -> np.ndarray:
        """The view of B [size,rank] that belongs to part n, in the checkpoint's order; writing into it writes B."""
        return replace(self.parts[n], in_out=False).view(whole)


def targets_of(model: Model, keys: KeyMap | None = None) -> dict[str, Target]:
    """{transformers' name: target} of every module that can have an adapter."""
    keys = model.blueprint.keys() if keys is None else keys
    declared = flatten(abstract_variables(model.module, LORA))
    params = flatten(model.params)
    found: dict[str, list[tuple]] = {}
    for module in (path[:-1] for path in declared if path[-1] == "b"):
        leaf = next(name for name in ("weight", "kernel", "embedding") if (*module, name) in params)
        outputs, inputs = unbox(declared[*module, "b"]).shape[-2], unbox(declared[*module, "a"]).shape[-1]
        for path in layer_names(module):
            part, (key, *_) = keys.find(f"{path}.{leaf}")
            name = key.removesuffix(".weight")
            if name != key and not HOLE.search(key):  # else it is a parameter of a module that does more
                row = (path, part, inputs, outputs, leaf == "embedding", (*module, "tied") in declared)
                found.setdefault(name, []).append(row)
    targets = (made(model, name, rows) for name, rows in found.items())
    return {target.name: target for target in targets if target is not None}


def made(model: Model, key: str, rows: list[tuple]) -> Target | None:
    """The target at one name in checkpoints; None where a part of it is no module that takes adapters."""
    paths, parts, inputs, outputs, embeddings, tied = zip(*rows, strict=True)
    shape = parts[0].shape
    if shape is not None and math.prod(shape) != sum(outputs):
        return None
    names = tuple(dict.fromkeys((model.blueprint.module_name(key), key)))
    return Target(names, paths, parts, inputs[0], outputs, embeddings[0], any(tied))


def choose(targets: dict[str, Target], wanted: Patterns, model: Model, excluded: Any = None) -> list[Target]:
    """The targets that peft would choose: whole names, ends of names, a regular expression, or "all-linear".

    Names may be transformers', those in checkpoints, or ours. Raises AdapterError for a name that means no target.
    """
    left = {name: t for name, t in targets.items() if excluded is None or not fits(excluded, name)}
    if isinstance(wanted, str) and wanted.lower() == ALL_LINEAR:
        return [t for t in left.values() if not t.embedding and not is_vocabulary_head(t, model)]
    patterns = (wanted,) if isinstance(wanted, str) else tuple((w,) for w in wanted)
    chosen: dict[str, Target] = {}
    for pattern in patterns:
        hits = meant(left.values(), pattern)
        if not hits:
            raise unknown(pattern if isinstance(pattern, str) else pattern[0], targets, model)
        chosen |= {t.name: t for t in hits}
    return list(chosen.values())


def meant(targets: Iterable[Target], pattern: Patterns) -> list[Target]:
    """Targets by transformers' names; if there are none, by checkpoints' names; then by ours."""
    targets = list(targets)
    for spelling in (lambda t: t.names[:1], lambda t: t.names):
        if hits := [t for t in targets if any(fits(pattern, name) for name in spelling(t))]:
            return hits
    hits = []
    for target in targets:
        inside = [fits(pattern, path) for path in target.paths]
        if any(inside) and not all(inside):
            others = ", ".join(target.paths)
            raise AdapterError(
                f"{pattern if isinstance(pattern, str) else pattern[0]!r} is a part of {target.name}, which holds "
                f"{others} in one matrix: name {target.name.rpartition('.')[2]!r} to adapt all of it"
            )
        hits += [target] if any(inside) else []
    return hits


def fits(pattern: Patterns, name: str) -> bool:
    """peft's rule: a string is a regular expression for the whole name, a list holds names and ends of names."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return any(name == end or name.endswith("." + end) for end in pattern)


def is_vocabulary_head(target: Target, model: Model) -> bool:
    """Whether a module makes the scores of words, which "all-linear" leaves out; letters of CTC it does not."""
    at = model.blueprint.at
    inside = not at or any(path.startswith(at + ".") for path in target.paths)
    return not inside and target.size == vocabulary(model.config) and model.task != "CTC"


def unknown(wanted: str, targets: dict[str, Target], model: Model) -> AdapterError:
    """The error for a name that no target has: what it is instead, or which names are near."""
    keys = model.blueprint.keys()
    others = set()
    for path, leaf in flatten(model.params).items():
        for piece in keys.pieces(path, tuple(leaf.shape)):
            others.add(model.blueprint.module_name(piece.keys[0].rpartition(".")[0]))
    hits = sorted(name for name in others if fits((wanted,), name))
    if hits:
        return AdapterError(
            f"{hits[0]} cannot have a low-rank adapter here: linear layers and tables of embeddings can, convolutions, "
            "norms and stacked experts cannot. To train it whole, name it in modules_to_save"
        )
    ends = sorted({name.rpartition(".")[2] for name in targets})
    near = difflib.get_close_matches(wanted, ends, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    tied = " (the head shares the words' table, so it is no module of its own)" if "head" in wanted else ""
    return AdapterError(f"no module is called {wanted!r}{tied}{hint} Modules that can be adapted: {', '.join(ends)}")
