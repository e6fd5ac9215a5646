"""What quantising cost each matrix: a table of errors, bits and bytes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.keymap import layer_names
from jaxformers.core.qtensor import QTensor, is_quantized
from jaxformers.hub.abstract import Path, flatten
from jaxformers.hub.adapted import is_stacked
from jaxformers.hub.model import Model


@dataclass(frozen=True)
class Rounded:
    """One matrix, or one kernel of all experts of a layer, before and after."""

    path: str  # logical, each layer by itself: "layers/3/attn/q_proj/weight"
    shape: tuple[int, ...]
    kind: str
    group_size: int | None  # None: one scale for each output
    error: float  # |W - quantised| / |W|, Frobenius
    before: int  # bytes
    after: int  # bytes, scales and all

    @property
    def bits(self) -> float:
        """Of a weight, scales and all."""
        size = 1
        for length in self.shape:
            size *= length
        return 8 * self.after / size


@dataclass(frozen=True)
class QuantizationErrors:
    """A row for each quantised matrix: print it, iterate, or take `table["layers/3/attn/q_proj/weight"]`."""

    rows: tuple[Rounded, ...]
    bytes_before: int  # of all parameters of the model
    bytes_after: int

    def __iter__(self) -> Iterator[Rounded]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, path: str) -> Rounded:
        return self._by_path[path]

    @cached_property
    def _by_path(self) -> dict[str, Rounded]:
        return {row.path: row for row in self.rows}

    @property
    def worst(self) -> Rounded:
        """The matrix with the largest relative error."""
        return max(self.rows, key=lambda row: row.error)

    def groups(self) -> list[tuple[str, list[Rounded]]]:
        """Rows that differ in the number of their layer only, together, with `*` for the number."""
        found: dict[tuple, list[Rounded]] = {}
        for row in self.rows:
            name = re.sub(r"(?<=/)\d+(?=/)", "*", row.path)
            found.setdefault((name, row.shape, row.kind, row.group_size), []).append(row)
        return [(key[0] if len(rows) > 1 else rows[0].path, rows) for key, rows in found.items()]

    def __rich__(self) -> Any:
        from jaxformers.quantization.errors_shown import table

        return table(self)

    def __str__(self) -> str:
        from jaxformers.hub.shardings_shown import text

        return text(self)

    __repr__ = __str__


def quantization_errors(model: Model, quantized: Model) -> QuantizationErrors:
    """Compare the matrices of a quantised model with those of the model it was made of.

    Raises ValueError when the second is not quantised or is another model or layout.
    """
    before, after = flatten(model.params), flatten(quantized.params)
    rows: list[Rounded] = []
    for path, leaf in after.items():
        if not is_quantized(leaf):
            continue
        old = before.get(path)
        if old is None or is_quantized(old) or tuple(old.shape) != leaf.shape:
            raise ValueError(f"{'/'.join(path)} is quantised, and the first model has no such matrix to compare with")
        rows += compared(path, old, leaf)
    if not rows:
        raise ValueError("the second model is not quantised: pass what jf.quantize made of the first")
    return QuantizationErrors(tuple(rows), bytes_of(before), bytes_of(after))


def compared(path: Path, old: jax.Array, new: QTensor) -> list[Rounded]:
    """A row for each layer that a leaf holds."""
    names = layer_names(path)
    errors = jax.device_get(layer_errors(old, new) if is_stacked(path) else [relative_error(old, new)])
    shape = tuple(old.shape[1:]) if is_stacked(path) else tuple(old.shape)
    sizes = (old.size * old.dtype.itemsize // len(names), new.nbytes // len(names))
    group = new.group_size if new.groups > 1 else None
    return [
        Rounded(name.replace(".", "/"), shape, new.kind, group, float(error), *sizes)
        for name, error in zip(names, errors, strict=True)
    ]


@jax.jit
def relative_error(old: jax.Array, new: QTensor) -> jax.Array:
    """|old - new| / |old|, in float32; 0 for a matrix of zeros."""
    old = old.astype(jnp.float32)
    size = jnp.linalg.norm(old.reshape(-1))
    return jnp.linalg.norm((old - new.dequantize(jnp.float32)).reshape(-1)) / jnp.where(size > 0, size, 1.0)


@jax.jit
def layer_errors(old: jax.Array, new: QTensor) -> jax.Array:
    """The relative error of each of several layers, one after another."""
    return jax.lax.map(lambda pair: relative_error(*pair), (old, new))


def bytes_of(leaves: dict[Path, Any]) -> int:
    """Of all leaves, scales and all."""
    return sum(leaf.size * leaf.dtype.itemsize if not is_quantized(leaf) else leaf.nbytes for leaf in leaves.values())
