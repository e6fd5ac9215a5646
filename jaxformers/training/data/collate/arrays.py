"""The plainest collator: fields of equal shape stacked, `label` and `label_ids` renamed as transformers do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxformers.training.data.rows import BadField

RENAMED = {"label": "labels", "label_ids": "labels"}


def collate_arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stack every field that holds numbers; texts and fields that are None are left out."""
    names = [name for name, value in rows[0].items() if value is not None and not is_text(value)]
    return {RENAMED.get(name, name): stack(rows, name) for name in names}


def stack(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One field of all rows, [rows, ...]. Raises BadField for a row that lacks it or has it in another shape."""
    values = []
    for place, row in enumerate(rows):
        if row.get(name) is None:
            raise BadField(place, name, f"is missing; the batch's first row has it. This row has {sorted(row)}")
        values.append(as_array(place, name, row[name]))
        if values[-1].shape != values[0].shape:
            raise BadField(
                place,
                name,
                f"has shape {values[-1].shape}, the batch's first row {values[0].shape}: use a collator that pads",
            )
    return as_model_type(np.stack(values))


def as_array(place: int, name: str, value: Any) -> np.ndarray:
    """A field as an array of numbers. Raises BadField for anything else."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise BadField(place, name, f"is no array: {error}") from error
    if array.dtype.kind not in "biufV":
        raise BadField(place, name, f"holds {array.dtype} and no numbers: {value!r:.80}")
    return array


def as_model_type(array: np.ndarray) -> np.ndarray:
    """Python's numbers as the types models read: float64 becomes float32."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


def is_text(value: Any) -> bool:
    """Whether a field holds text or bytes, which no model reads."""
    first = value
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    return isinstance(first, (str, bytes)) or getattr(first, "dtype", np.dtype(int)).kind in "SU"
