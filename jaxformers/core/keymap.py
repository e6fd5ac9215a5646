"""Parameter names <-> Hugging Face keys: one table for both directions.

A leaf of our tree is a numpy view of a checkpoint tensor. Reading copies out of the view, writing copies into it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np

HOLE = re.compile(r"\{(\w+|\*)\}")
# Our leaf name -> their last word. TensorFlow-born checkpoints say gamma and beta.
SUFFIX = {"kernel": ("weight",), "scale": ("weight", "gamma"), "embedding": ("weight",), "bias": ("bias", "beta")}


@dataclass(frozen=True)
class Part:
    """Our leaf is `tensor.reshape(shape + rest)[index]`.

    shape: how the tensor's first axis splits; None when the leaf is the whole tensor. in_out: kernels stored [in, out].
    also: other keys that hold the same tensor in some checkpoints. exact: `key` already ends in the tensor's name.
    """

    key: str
    shape: tuple[int, ...] | None = None
    index: Any = ...
    in_out: bool = False
    also: tuple[str, ...] = ()
    exact: bool = False

    def view(self, tensor: np.ndarray) -> np.ndarray:
        """The part of a checkpoint tensor that is our leaf, still in their layout."""
        if self.in_out:
            tensor = tensor.T
        if self.shape is None:
            return tensor
        return tensor.reshape(*self.shape, *tensor.shape[1:])[self.index]

    def whole(self, part: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the whole tensor, given the shape of our part in their layout."""
        full = part if self.shape is None else (int(np.prod(self.shape)), *part[1:])
        return full[::-1] if self.in_out else full


@dataclass(frozen=True)
class Piece:
    """One checkpoint tensor behind (a slice of) one leaf of ours."""

    at: tuple[int, ...]  # index into our leaf: layer, then expert
    part: Part
    keys: tuple[str, ...]  # the first is what we write; any may be read
    shape: tuple[int, ...]  # shape of this piece in our layout


@cache
def to_regex(template: str) -> re.Pattern[str]:
    """Compile "layers.{i}.attn.{*}" to a pattern with the holes as groups."""
    parts = HOLE.split(template)
    out = ""
    for n, part in enumerate(parts):
        if n % 2 == 0:
            out += re.escape(part)
        else:
            out += "(?P<rest>.+)" if part == "*" else f"(?P<{part}>[0-9]+)"
    return re.compile(out + "$")


@dataclass(frozen=True)
class KeyMap:
    """Ordered {our path template: their key template or Part}; the first match wins, and `a | b` lets b win.

    Holes: {i} a layer, {*} the rest of the path; a hole only on their side ({e}) is stacked on our next axis.
    ignore: patterns of their keys that carry nothing we need.
    """

    rules: Mapping[str, str | Part] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()

    def __or__(self, other: "KeyMap") -> "KeyMap":
        mine = {k: v for k, v in self.rules.items() if k not in other.rules}
        return KeyMap({**other.rules, **mine}, self.ignore + other.ignore)

    def under(self, ours: str, theirs: str) -> "KeyMap":
        """The same table for a tower nested at `ours` in our tree and at `theirs` in the checkpoint; "" is the root."""

        def nest(value: str | Part) -> str | Part:
            if isinstance(value, str):
                return join(theirs, value)
            also = tuple(join(theirs, k) for k in value.also)
            return Part(join(theirs, value.key), value.shape, value.index, value.in_out, also, value.exact)

        dot = re.escape(theirs) + r"\." if theirs else ""
        ignore = tuple(
            "^" + dot + p[1:] if p.startswith("^") else ("^" + dot + ".*" + p if dot else p) for p in self.ignore
        )
        return KeyMap({join(ours, k): nest(v) for k, v in self.rules.items()}, ignore)

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], Part]]:
        return [(to_regex(k), v if isinstance(v, Part) else Part(v)) for k, v in self.rules.items()]

    def find(self, path: str) -> tuple[Part, tuple[str, ...]]:
        """The rule for one logical path ("layers.3.attn.q_proj.kernel") and their keys with only stacked holes left."""
        module, _, leaf = path.rpartition(".")
        suffixes = SUFFIX.get(leaf, (leaf,))
        for pattern, part in self._compiled:
            for text, ends in ((module, tuple("." + s for s in suffixes)), (path, ("",))):
                if match := pattern.match(text):
                    fill = {("*" if k == "rest" else k): v for k, v in match.groupdict().items()}
                    ends = ("",) if part.exact else ends
                    templates = [HOLE.sub(lambda h: fill.get(h[1], h[0]), key) for key in (part.key, *part.also)]
                    return part, tuple(t + end for t in templates for end in ends)
        raise KeyError(f"no rule in the key map for parameter {path}")

    def knows(self, key: str) -> bool:
        """Whether a rule without layers speaks of this key, though no leaf may ask for it (an unused pooler)."""
        for value in self.rules.values():
            part = value if isinstance(value, Part) else Part(value)
            for template in (part.key, *part.also):
                if set(HOLE.findall(template)) <= {"*"} and to_regex(
                    template + (".{*}" if not part.exact else "")
                ).match(key):
                    return True
        return False

    def ignores(self, key: str) -> bool:
        """Whether a checkpoint key carries nothing we need."""
        return any(re.search(p, key) for p in self.ignore)

    def pieces(self, path: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Piece]:
        """Every checkpoint tensor behind the leaf at `path`, a tuple such as ("layers", "0:4:1", "0", "mlp", ...)."""
        logical, layers = logical_path(path)
        for row, layer in enumerate([None] if layers is None else layers):
            part, keys = self.find(logical if layer is None else logical.format(layer))
            base = () if layer is None else (row,)
            if HOLE.search(keys[0]) is None:
                yield Piece(base, part, keys, shape[len(base) :])
                continue
            for expert in range(shape[len(base)]):
                filled = tuple(HOLE.sub(str(expert), k) for k in keys)
                yield Piece((*base, expert), part, filled, shape[len(base) + 1 :])


def join(a: str, b: str) -> str:
    """Join two dotted paths, either of which may be empty."""
    return f"{a}.{b}" if a and b else a or b


def logical_path(path: tuple[str, ...]) -> tuple[str, range | None]:
    """Read the layers out of a path: ("layers", "0:26:2", "1", "attn") is "layers.{}.attn" for layers 1, 3, ..., 25."""
    out: list[str] = []
    layers = None
    words = iter(path)
    for word in words:
        if ":" in word:
            start, stop, step = map(int, word.split(":"))
            layers = range(start + int(next(words)), stop, step)
            out.append("{}")
        else:
            out.append(word)
    return ".".join(out), layers


def layer_names(path: tuple[str, ...]) -> list[str]:
    """The logical path of each layer that a leaf or a module holds: one name where nothing is stacked."""
    logical, layers = logical_path(path)
    return [logical] if layers is None else [logical.format(layer) for layer in layers]


def to_theirs(leaf: str, x: Any) -> Any:
    """View our layout as theirs: kernels [*k, in, out] -> [out, in, *k]."""
    if leaf != "kernel" or x.ndim < 2:
        return x
    return x.transpose(x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))


def to_ours(leaf: str, x: Any) -> Any:
    """View their layout as ours: weights [out, in, *k] -> [*k, in, out]."""
    if leaf != "kernel" or x.ndim < 2:
        return x
    return x.transpose(*range(2, x.ndim), 1, 0)


def their_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one of our pieces in their layout."""
    return to_theirs(leaf, np.broadcast_to(np.empty((), np.int8), shape)).shape
