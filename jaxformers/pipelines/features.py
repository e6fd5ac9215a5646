"""Feature extraction: the base model's hidden states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.pipelines.pipeline import Options, Pipeline
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.text_rows import text_row


@dataclass(frozen=True)
class FeatureOptions(Options):
    """return_tensors: "np" for arrays instead of lists. tokenize_kwargs go to the tokenizer."""

    return_tensors: str | bool | None = None
    truncation: bool | str = False
    tokenize_kwargs: Mapping[str, Any] = field(default_factory=dict)


class FeatureExtraction(Pipeline):
    """A text to its hidden states [1,T,D], as nested lists."""

    task = "feature-extraction"
    heads = (None,)
    options = FeatureOptions
    outputs = ("last_hidden_state",)
    padded = ("last_hidden_state",)

    def prepare(self, item: Any, options: FeatureOptions) -> list[Row]:
        return [text_row(self, item, **{"truncation": options.truncation, **options.tokenize_kwargs})]

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: FeatureOptions) -> Any:
        states = np.asarray(outputs[0]["last_hidden_state"])[None]
        return states if options.return_tensors else states.astype(np.float32).tolist()
