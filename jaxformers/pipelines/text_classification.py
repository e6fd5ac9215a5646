"""Text classification: a label for each text, or the scores of all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.pipelines.pipeline import Options, Pipeline
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.scores import apply, names, ranked, usual_function
from jaxformers.pipelines.text_rows import text_row

UNSET = -1  # top_k was not given: the best label alone, outside of a list


@dataclass(frozen=True)
class ClassificationOptions(Options):
    """top_k: how many labels, None for all. function_to_apply: "sigmoid", "softmax" or "none"."""

    top_k: int | None = UNSET
    function_to_apply: str | None = None
    truncation: bool | str = False
    max_length: int | None = None
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)


class TextClassification(Pipeline):
    """A text, or {"text", "text_pair"}, to {"label", "score"}; with top_k to a list of them."""

    task = "text-classification"
    heads = ("SequenceClassification",)
    options = ClassificationOptions

    def prepare(self, item: Any, options: ClassificationOptions) -> list[Row]:
        pair = None
        if isinstance(item, Mapping):
            unknown = sorted(set(item) - {"text", "text_pair"})
            if unknown or "text" not in item:
                raise ValueError(f'expected {{"text": ..., "text_pair": ...}}, found the keys {sorted(item)}')
            item, pair = item["text"], item.get("text_pair")
        elif isinstance(item, (list, tuple)):
            raise ValueError('to classify a pair of texts pass {"text": ..., "text_pair": ...}')
        chosen = {"truncation": options.truncation, "max_length": options.max_length, **options.tokenizer_kwargs}
        return [text_row(self, item, pair, **chosen)]

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: ClassificationOptions) -> Any:
        logits = np.asarray(outputs[0]["logits"], np.float32)
        scores = apply(options.function_to_apply or usual_function(self.model.config), logits)
        labels = names(self.model.config)
        if options.top_k == UNSET:
            return ranked(scores, labels, 1)[0]
        return ranked(scores, labels, options.top_k)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """As every pipeline; one plain text without top_k gives a list of one, as it does in transformers."""
        result = super().__call__(inputs, **options)
        return [result] if isinstance(inputs, str) and isinstance(result, dict) else result
