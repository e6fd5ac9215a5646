"""From text to tokens on the way to a batch: transforms of one row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

INTEGERS = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask", "labels")


@dataclass(frozen=True)
class Tokenize:
    """Encodes fields of a row and drops their texts; other fields stay.

    text, pair: the fields with the text and the second text. target: the field whose ids become labels. end: also end
    the text with eos, as documents that are packed need where the tokenizer does not end them by itself. options: of
    the tokenizer's call, such as return_special_tokens_mask.
    """

    tokenizer: Any
    text: str = "text"
    pair: str | None = None
    target: str | None = None
    max_length: int | None = None
    max_target_length: int | None = None
    end: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self.many([row])[0]

    def many(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Several rows at once, which tokenizers encode side by side."""
        texts = {name: [as_text(row[name]) for row in rows] for name in (self.text, self.pair, self.target) if name}
        pairs = None if self.pair is None else texts[self.pair]
        fields = dict(self.tokenizer(texts[self.text], pairs, **cut_to(self.max_length), **self.options))
        if self.target is not None:
            fields["labels"] = self.tokenizer(texts[self.target], **cut_to(self.max_target_length))["input_ids"]
        if len(fields["input_ids"]) != len(rows):
            raise ValueError(f"{len(rows)} texts became {len(fields['input_ids'])} rows: cut long ones with max_length")
        out = []
        for place, row in enumerate(rows):
            encoded = {name: values[place] for name, values in fields.items()}
            arrays = {n: np.asarray(value, np.int32) if n in INTEGERS else value for n, value in encoded.items()}
            out.append({name: value for name, value in row.items() if name not in texts} | arrays)
        return [self.ended(row) for row in out] if self.end else out

    def ended(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with an eos token at its end, in the place of the last token where it is full."""
        eos, ids = self.tokenizer.eos_token_id, row["input_ids"]
        if eos is None:
            raise ValueError("end=True ends texts with the tokenizer's eos_token; it has none")
        if len(ids) and ids[-1] == eos:
            return row
        room = len(ids) if self.max_length is None else min(len(ids), self.max_length - 1)
        more = {"input_ids": eos, "attention_mask": 1, "token_type_ids": 0, "special_tokens_mask": 1}
        return row | {n: np.append(row[n][:room], value).astype(np.int32) for n, value in more.items() if n in row}


def cut_to(length: int | None) -> dict[str, Any]:
    """How a tokenizer is called: cut to a length, or silent about long texts, which are packed or cut later."""
    return {"verbose": False} if length is None else {"truncation": True, "max_length": length}


def as_text(value: Any) -> Any:
    """Text as str: tfds gives bytes, arrow and numpy scalars of their own."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class TokenizeWords:
    """Encodes rows of words with a label each: the first token of a word has its label, the others -100.

    words, labels: the fields. whole: give every token of a word its label.
    """

    tokenizer: Any
    words: str = "tokens"
    labels: str = "ner_tags"
    max_length: int | None = None
    whole: bool = False

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        words = [as_text(word) for word in row[self.words]]
        if len(words) != len(row[self.labels]):
            raise ValueError(f"{len(words)} {self.words} have {len(row[self.labels])} {self.labels}")
        encoded = self.tokenizer(
            words, is_split_into_words=True, truncation=self.max_length is not None, max_length=self.max_length
        )
        labels, before = [], None
        for word in encoded.word_ids(0):
            named = word is not None and (self.whole or word != before)
            labels.append(int(row[self.labels][word]) if named else -100)
            before = word
        out = {name: value for name, value in row.items() if name not in (self.words, self.labels)}
        return out | {name: np.asarray(value, np.int32) for name, value in encoded.items()} | {"labels": labels}


@dataclass(frozen=True)
class ProcessImage:
    """Runs an image processor on a field of a row: its pixel_values [C,H,W] take the image's place."""

    processor: Any
    image: str = "image"

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        pixels = self.processor(row[self.image], return_tensors="np")["pixel_values"][0]
        return {name: value for name, value in row.items() if name != self.image} | {"pixel_values": pixels}
