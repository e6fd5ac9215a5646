"""Texts as rows: tokenizer output without its batch axis, ready to be padded with others."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxformers.pipelines.pipeline import Pipeline
from jaxformers.pipelines.rows import Row

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def rows_of(encoded: Mapping[str, Any], note: Any = None) -> list[Row]:
    """One row for each encoding of a tokenizer call that returned lists of lists."""
    given = {name: encoded[name] for name in MODEL_INPUTS if name in encoded}
    return [
        Row({name: np.asarray(values[i], np.int32) for name, values in given.items()}, note)
        for i in range(len(given["input_ids"]))
    ]


def text_row(pipe: Pipeline, text: Any, pair: Any = None, note: Any = None, **options: Any) -> Row:
    """One text, or a pair, as a row. Raises ValueError for what is not text or is longer than the model takes."""
    for one in (text, pair):
        if one is not None and not isinstance(one, str):
            raise ValueError(f"expected a text, found {type(one).__name__} {one!r:.60}")
    pairs = None if pair is None else [pair]
    (row,) = rows_of(pipe.tokenizer([text], pairs, **{"padding": False, "verbose": False, **options}), note)
    if not row.length:
        raise ValueError("the text gives no tokens")
    if row.length > pipe.padding.longest:
        raise ValueError(
            f"the text has {row.length} tokens, the model takes {pipe.padding.longest}: shorten it or pass "
            "truncation=True"
        )
    return row
