"""From ids to text: what may be decoded, and the spaces that decoding leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What a decoder of word pieces leaves behind, in the order transformers repairs it.
REPAIRS = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " 's": "'s"} | {
    " 've": "'ve",
    " 're": "'re",
}


def ids_of(token_ids: Any) -> list[Any]:
    """Return ids as a list, or as a list of lists for a batch. Raises ValueError on anything but ids."""
    ids = token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(ids, int):
        ids = [ids]
    if not isinstance(ids, str) and len(ids):
        if isinstance(ids[0], (list, tuple)) or getattr(ids[0], "ndim", 0):
            return [ids_of(row) for row in ids]
    if isinstance(ids, str) or any(not 0 <= i < 2**32 for i in ids):
        raise ValueError(f"ids to decode must be whole numbers from 0, found {ids!r}; replace -100 by a token's id")
    return [int(i) for i in ids]


def is_batch(ids: list[Any]) -> bool:
    """Whether `ids_of` found rows of ids."""
    return bool(ids) and isinstance(ids[0], list)


def clean_up(text: str) -> str:
    """Remove the spaces that decoding word pieces leaves before punctuation and English contractions."""
    for found, repaired in REPAIRS.items():
        text = text.replace(found, repaired)
    return text
