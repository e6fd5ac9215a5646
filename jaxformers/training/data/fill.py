"""Filling: a last batch made as large as the others by rows that no loss and no metric counts."""

from collections.abc import Mapping

import numpy as np

IGNORED = -100  # the label that losses leave out, as in transformers
ANSWERS = ("labels", "start_positions", "end_positions")


def fill_rows(batch: Mapping[str, np.ndarray], real: int) -> dict[str, np.ndarray]:
    """The batch, whose rows from `real` on are made not to count: labels -100, or NaN where they are floats."""
    out = dict(batch)
    for name in out:
        if name in ANSWERS or name.endswith("_labels"):
            labels = np.array(out[name])
            labels[real:] = IGNORED if labels.dtype.kind in "iu" else np.nan
            out[name] = labels
    return out
