"""How far two outputs are apart, measured against their scale."""

import json
import os
from typing import Any

import numpy as np

# Fields that hold caches or repeat others; everything else that both sides return is compared.
NOT_COMPARED = {"past_key_values", "loss", "cache_params", "encoder_past_key_values"}


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |ours - theirs| / max |theirs|; infinite when shapes differ or a number is not finite."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    scale = max(float(np.abs(theirs).max(initial=0.0)), 1e-6)
    return float(np.abs(ours - theirs).max(initial=0.0)) / scale


def visible(value: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The entries of real tokens: what a model writes at padding means nothing."""
    if mask is None or mask.ndim != 2:
        return value
    if value.ndim >= 2 and value.shape[:2] == mask.shape and value.ndim != 4:
        return value[mask.astype(bool)]
    if value.ndim == 4 and value.shape[0] == mask.shape[0] and value.shape[2] == mask.shape[1]:
        return np.moveaxis(value, 2, 1)[mask.astype(bool)]
    return value


def worst(
    ours: Any, theirs: dict[str, Any], skip: tuple[str, ...] = (), mask: np.ndarray | None = None
) -> dict[str, float]:
    """{field: error} over every field that transformers returned; a field we lack is an infinite error."""
    out: dict[str, float] = {}
    for name, reference in theirs.items():
        if name in NOT_COMPARED or name in skip or not isinstance(reference, (np.ndarray, tuple, dict)):
            continue
        if isinstance(reference, tuple) and not reference:
            continue  # asked for, but the class has none
        mine = getattr(ours, name, None)
        if mine is None or isinstance(reference, tuple) and len(mine) != len(reference):
            found = "nothing" if mine is None else f"{len(mine)} entries for {len(reference)}"
            raise AssertionError(f"{name}: transformers returns it, we return {found}")
        if isinstance(reference, dict):  # an output within the output, such as a tower's
            out |= {f"{name}.{k}": e for k, e in worst(mine, reference, skip, mask).items()}
            continue
        pairs = zip(mine, reference, strict=True) if isinstance(reference, tuple) else [(mine, reference)]
        errors = [error(visible(np.asarray(a), mask), visible(b, mask)) for a, b in pairs if isinstance(b, np.ndarray)]
        out[name] = max(errors, default=0.0)
    return out


def report(row: Any, what: str, errors: dict[str, float]) -> None:
    """Append the figures to the file that PARITY_REPORT names, from which docs/parity.md is made."""
    if path := os.environ.get("PARITY_REPORT"):
        import transformers

        kind = getattr(transformers, row.hf).config_class.model_type
        line = {"type": kind, "class": row.hf, "options": row.name, "task": row.task, "what": what, "errors": errors}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
