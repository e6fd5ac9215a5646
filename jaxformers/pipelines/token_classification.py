"""Token classification: entities in a text, token by token or joined by one of four strategies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.pipelines.entities import STRATEGIES, Token, group, joined, without_overlaps
from jaxformers.pipelines.pipeline import Options, Pipeline
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.scores import names
from jaxformers.pipelines.text_rows import rows_of
from jaxformers.processing.shares import softmax


@dataclass(frozen=True)
class TokenOptions(Options):
    """aggregation_strategy: "none", "simple", "first", "average" or "max". stride: long texts overlap by that much."""

    aggregation_strategy: str = "none"
    ignore_labels: tuple[str, ...] | list[str] | None = None
    stride: int | None = None
    is_split_into_words: bool = False
    delimiter: str = " "
    grouped_entities: bool | None = None  # old names of the strategies
    ignore_subwords: bool | None = None

    @property
    def strategy(self) -> str:
        """The strategy, by its own or by the old names. Raises ValueError for one that is unknown."""
        if self.grouped_entities is not None or self.ignore_subwords is not None:
            old = "first" if self.ignore_subwords else "simple"
            return old if self.grouped_entities else "none"
        if self.aggregation_strategy.lower() not in STRATEGIES:
            raise ValueError(
                f"aggregation_strategy is {self.aggregation_strategy!r}; expected one of {', '.join(STRATEGIES)}"
            )
        return self.aggregation_strategy.lower()


@dataclass(frozen=True)
class Window:
    """A stretch of a text: what finding entities needs beside the scores. offsets are in characters of `text`."""

    text: str
    offsets: Sequence[tuple[int, int] | None]
    special: Sequence[int]


class TokenClassification(Pipeline):
    """A text to [{"entity", "score", "index", "word", "start", "end"}], or to groups with "entity_group"."""

    task = "token-classification"
    heads = ("TokenClassification",)
    options = TokenOptions
    padded = ("logits",)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """As every pipeline; with is_split_into_words=True one input is a list of words."""
        # Only the call's own options say whether a list of strings is one text in words or several texts.
        split = options.get("is_split_into_words", self.defaults.is_split_into_words)
        if split and isinstance(inputs, (list, tuple)) and all(isinstance(x, str) for x in inputs):
            return super().__call__([list(inputs)], **options)[0]
        return super().__call__(inputs, **options)

    def prepare(self, item: Any, options: TokenOptions) -> list[Row]:
        if options.stride is not None and (not self.tokenizer.is_fast or options.strategy == "none"):
            raise ValueError("stride needs a fast tokenizer and an aggregation_strategy other than 'none'")
        starts: list[int] | None = None
        text = item
        if options.is_split_into_words:
            if not isinstance(item, (list, tuple)) or not all(isinstance(x, str) for x in item):
                raise ValueError(f"with is_split_into_words=True expected a list of words, found {item!r:.60}")
            text = options.delimiter.join(item)
            lengths = [0, *(len(word) + len(options.delimiter) for word in item)]
            starts = [int(x) for x in np.cumsum(lengths)]
        elif not isinstance(item, str):
            raise ValueError(f"expected a text, found {type(item).__name__} {item!r:.60}")
        overlap = {} if options.stride is None else {"stride": options.stride, "return_overflowing_tokens": True}
        fast = self.tokenizer.is_fast
        encoded = self.tokenizer(
            [item],
            truncation=self.tokenizer.model_max_length > 0,
            is_split_into_words=options.is_split_into_words,
            return_special_tokens_mask=True,
            return_offsets_mapping=fast,
            **overlap,
        )
        rows = []
        for i, row in enumerate(rows_of(encoded)):
            places: list[tuple[int, int] | None] = [None] * row.length
            if fast:
                words = encoded.word_ids(i) if starts is not None else [None] * row.length
                shifts = [0 if w is None or starts is None else starts[w] for w in words]
                pairs = encoded["offset_mapping"][i]
                places = [(int(a) + x, int(b) + x) for (a, b), x in zip(pairs, shifts, strict=True)]
            rows.append(Row(row.inputs, Window(text, places, encoded["special_tokens_mask"][i])))
        return rows

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: TokenOptions) -> Any:
        labels = names(self.model.config)
        ignored = {"O"} if options.ignore_labels is None else set(options.ignore_labels)
        found: list[dict[str, Any]] = []
        for row, output in zip(rows, outputs, strict=True):
            scores = softmax(np.asarray(output["logits"], np.float32))
            tokens = self.tokens(row, scores, options.strategy)
            entities = joined(tokens, options.strategy, labels, self.tokenizer)
            if options.strategy != "none":
                entities = group(entities, self.tokenizer)
            found += [e for e in entities if e.get("entity", e.get("entity_group")) not in ignored]
        return without_overlaps(found) if len(rows) > 1 else found

    def tokens(self, row: Row, scores: np.ndarray, strategy: str) -> list[Token]:
        """The row's tokens that are not special, with whether each continues a word."""
        window: Window = row.note
        model = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "model", None)
        pieces = getattr(model, "continuing_subword_prefix", None)
        out = []
        for i, (number, place) in enumerate(zip(row.inputs["input_ids"], window.offsets, strict=True)):
            if window.special[i]:
                continue
            word, continues = self.tokenizer.convert_ids_to_tokens(int(number)), False
            if place is not None:
                start, end = place
                if pieces:
                    continues = len(word) != end - start
                else:
                    # Without marked pieces a token continues a word when no space comes before it.
                    continues = start > 0 and " " not in window.text[start - 1 : start + 1]
                if int(number) == self.tokenizer.unk_token_id:
                    word, continues = window.text[start:end], False
            out.append(Token(word, scores[i], place, i, continues))
        return out
