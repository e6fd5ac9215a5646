"""Rows and batches: what an input becomes for the model, and how rows of like shape are run together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxformers.pipelines.buckets import bucket

SHORTEST = 16  # tokens; shorter texts are padded up to it
LONGEST = 1 << 20


@dataclass(frozen=True)
class Row:
    """One row of a batch: the model's inputs without their batch axis, and what reading its output needs to know.

    Inputs named in `lengths` are padded to a common length on the right; all others must have equal shapes.
    """

    inputs: Mapping[str, np.ndarray]
    note: Any = None

    @property
    def length(self) -> int:
        """How many tokens or samples there are; 0 for inputs that are neither."""
        given = next((self.inputs[n] for n in ("input_ids", "input_values") if n in self.inputs), None)
        return 0 if given is None else len(given)


@dataclass(frozen=True)
class Padding:
    """What fills the end of each input whose first axis is the text's length, and the longest the model takes."""

    values: Mapping[str, int]
    longest: int = LONGEST
    side: str = "right"
    bucketed: bool = True  # False for what finds its own buckets, as generate does
    exact: bool = False  # the model reads no mask: only rows of one length go together, and none is padded


def shape_key(row: Row, padding: Padding) -> tuple:
    """Rows with equal keys can be stacked once their texts are padded."""
    fixed = tuple(sorted((k, v.shape, str(v.dtype)) for k, v in row.inputs.items() if k not in padding.values))
    return fixed, tuple(sorted(row.inputs)), row.length if padding.exact else None


def batches_of(rows: Sequence[Row], size: int, padding: Padding) -> list[list[int]]:
    """Group row numbers by shape and length, long texts first: little is padded and the largest batch fails at once."""
    groups: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(shape_key(row, padding), []).append(i)
    out = []
    for members in groups.values():
        members.sort(key=lambda i: -rows[i].length)
        out += [members[i : i + size] for i in range(0, len(members), size)]
    return out


def collate(rows: Sequence[Row], size: int, padding: Padding) -> dict[str, np.ndarray]:
    """Stack rows, texts padded to a bucket; the batch is filled up with copies of its first row.

    On the right unless prompts are to be continued: then the first token's position is 0 for every model.
    """
    longest = max(row.length for row in rows)
    whole = padding.exact or not padding.bucketed
    length = longest if whole else bucket(longest, SHORTEST, max(padding.longest, longest))
    count = bucket(len(rows), 1, max(size, 1)) if padding.bucketed else len(rows)
    filled = [*rows, *[rows[0]] * (count - len(rows))]
    batch = {}
    for name in rows[0].inputs:
        arrays = [np.asarray(row.inputs[name]) for row in filled]
        if name in padding.values:
            arrays = [pad_text(a, length, padding.values[name], padding.side) for a in arrays]
        batch[name] = np.stack(arrays)
    return batch


def pad_text(array: np.ndarray, length: int, value: int, side: str) -> np.ndarray:
    """Fill the first axis up to `length`."""
    missing = length - len(array)
    first = (0, missing) if side == "right" else (missing, 0)
    return np.pad(array, [first, *[(0, 0)] * (array.ndim - 1)], constant_values=value)


def take_row(outputs: Mapping[str, Any], at: int, length: int, padded: Sequence[str]) -> dict[str, Any]:
    """One row of every output; those in `padded` lose what lies beyond the row's own tokens."""

    def one(name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind == "O":
            return value[at : at + 1]  # rows of different lengths
        row = jax.tree.map(lambda x: x[at], value)
        return jax.tree.map(lambda x: x[:length], row) if name in padded else row

    return {name: one(name, value) for name, value in outputs.items()}


def run_batches(
    rows: Sequence[Row],
    order: Iterable[Sequence[int]],
    run: Callable[[dict[str, np.ndarray], int], Mapping[str, Any]],
    size: int,
    padding: Padding,
    padded: Sequence[str] = (),
) -> list[Any]:
    """Outputs of every row, on the host, in the order of `rows`; one batch ahead keeps the device busy.

    Rows of a batch that fails are run one by one; a row that fails alone has its exception as output.
    """
    found: list[Any] = [None] * len(rows)

    def fetch(members: Sequence[int], outputs: Mapping[str, Any]) -> None:
        host = {k: v if isinstance(v, np.ndarray) else jax.tree.map(np.asarray, v) for k, v in outputs.items()}
        for at, i in enumerate(members):
            found[i] = take_row(host, at, rows[i].length, padded)

    waiting: tuple[Sequence[int], Mapping[str, Any]] | None = None
    for members in order:
        try:
            outputs = run(collate([rows[i] for i in members], size, padding), members[0])
        except Exception as error:
            if len(members) == 1:
                found[members[0]] = error
            else:
                alone = run_batches(rows, [[i] for i in members], run, size, padding, padded)
                for i in members:
                    found[i] = alone[i]
            continue
        if waiting is not None:
            fetch(*waiting)
        waiting = (members, outputs)
    if waiting is not None:
        fetch(*waiting)
    return found
