"""Where each parameter of a model lives: a table of shapes, specs and bytes per device, which needs no devices."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxformers.core.qtensor import parts_of
from jaxformers.core.sharding import AnyMesh, Rules, axes_of, spec
from jaxformers.hub.abstract import flatten
from jaxformers.hub.adapted import abstract_leaves
from jaxformers.hub.model import Model


@dataclass(frozen=True)
class Placed:
    """One parameter and how the mesh cuts it."""

    path: str
    shape: tuple[int, ...]
    dtype: Any
    spec: PartitionSpec
    mesh: AnyMesh
    names: tuple[str | None, ...] = ()  # logical, one for each axis; () where the module knows none

    @property
    def axes(self) -> tuple[tuple[str, ...], ...]:
        """The mesh axes that each axis is cut along."""
        return tuple(map(axes_of, (*self.spec, *[None] * (len(self.shape) - len(self.spec)))))

    @property
    def cuts(self) -> tuple[int, ...]:
        """Into how many parts each axis is cut."""
        return tuple(math.prod(self.mesh.shape[axis] for axis in axes) for axes in self.axes)

    @property
    def shard(self) -> tuple[int, ...]:
        """The shape of what one device holds."""
        return tuple(size // cut for size, cut in zip(self.shape, self.cuts, strict=True))

    @property
    def bytes(self) -> int:
        """Of the whole parameter, once."""
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize

    @property
    def bytes_per_device(self) -> int:
        """Of what one device holds."""
        return math.prod(self.shard) * jnp.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Shardings:
    """A row for each parameter: print it, take `table["path/of/a/parameter"]`, or `table.draw("q_proj")`."""

    mesh: AnyMesh
    rows: tuple[Placed, ...]

    def __iter__(self) -> Iterator[Placed]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, path: str) -> Placed:
        return self._by_path[path]

    @cached_property
    def _by_path(self) -> dict[str, Placed]:
        return {row.path: row for row in self.rows}

    @property
    def parameters(self) -> int:
        """How many numbers there are."""
        return sum(math.prod(row.shape) for row in self.rows)

    @property
    def bytes(self) -> int:
        """Of all parameters, once."""
        return sum(row.bytes for row in self.rows)

    @property
    def bytes_per_device(self) -> int:
        """Of what one device holds; the same on each."""
        return sum(row.bytes_per_device for row in self.rows)

    def find(self, pattern: str) -> list[Placed]:
        """Rows whose path the regular expression matches anywhere. Raises ValueError when there are none."""
        found = [row for row in self.rows if re.search(pattern, row.path)]
        if not found:
            raise ValueError(f"no parameter's path matches {pattern!r}; print the table to see the paths")
        return found

    def groups(self) -> list[tuple[str, list[Placed]]]:
        """Rows that differ in the number of their layer only, together, with `*` for the number."""
        found: dict[tuple, list[Placed]] = {}
        for row in self.rows:
            name = re.sub(r"(?<=/)\d+(?=/)", "*", row.path)
            found.setdefault((name, row.shape, str(row.dtype), row.spec), []).append(row)
        return [(key[0] if len(rows) > 1 else rows[0].path, rows) for key, rows in found.items()]

    def draw(self, pattern: str) -> None:
        """Print which device holds which part of the first parameter of each kind that the pattern matches."""
        from rich.console import Console

        from jaxformers.hub.shardings_shown import drawing

        out = Console()
        for _, rows in Shardings(self.mesh, tuple(self.find(pattern))).groups():
            out.print(drawing(rows[0]))

    def __rich__(self) -> Any:
        from jaxformers.hub.shardings_shown import table

        return table(self)

    def __str__(self) -> str:
        from jaxformers.hub.shardings_shown import text

        return text(self)

    __repr__ = __str__


def shardings(model: Model, mesh: AnyMesh | None = None, rules: Rules | None = None) -> Shardings:
    """Say where each parameter of a model lives; nothing is moved, and shapes without values will do.

    mesh, rules: instead of the model's own; the mesh may be abstract. Without them, what arrays say of themselves
    counts. Raises ValueError when there is no mesh.
    """
    own = mesh is None and rules is None
    mesh = model.mesh if mesh is None else mesh
    if mesh is None:
        raise ValueError("the model is on no mesh: load it with mesh=, or pass shardings(model, jf.make_mesh(...))")
    rules = model.rules if rules is None else rules
    boxed = flatten(abstract_leaves(model.module, model.adapter))
    names_of = {path: getattr(leaf, "names", ()) for path, leaf in boxed.items()}
    names_of |= {path: names for path, (_, names) in parts_of(model.params).items()}
    rows = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]:
        words = tuple(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        words = words[1:] if words[0] in ("params", "adapters") else words
        names = names_of.get(words, ())
        given = getattr(leaf, "sharding", None) if own else None
        if isinstance(given, NamedSharding):
            where, on = given.spec, given.mesh
        else:
            where, on = spec(names or (None,) * leaf.ndim, leaf.shape, mesh, rules, say=True), mesh
        rows.append(Placed("/".join(words), tuple(leaf.shape), leaf.dtype, where, on, names))
    return Shardings(mesh, tuple(rows))
