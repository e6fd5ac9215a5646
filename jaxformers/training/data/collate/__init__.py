"""Collators: from rows to a batch of arrays, `list[dict] -> dict[str, np.ndarray]`."""

from jaxformers.training.data.collate.arrays import collate_arrays

__all__ = ["collate_arrays"]
