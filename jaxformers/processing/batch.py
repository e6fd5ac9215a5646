"""The result of a tokenizer call: a dictionary of model inputs that still knows words and characters."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding


class CharSpan(NamedTuple):
    """Characters `start` to `end` (exclusive) of the original text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` (exclusive) of an encoding."""

    start: int
    end: int


class BatchEncoding(UserDict):
    """Model inputs by name, with the maps between tokens, words and characters.

    A string key gives an input, an integer the `tokenizers.Encoding` of that row.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encodings: Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
    ):
        self._encodings = None if encodings is None else list(encodings)
        self.data = {} if data is None else dict(data)  # UserDict's own way costs as much as encoding a short text
        self.convert_to_tensors(tensor_type)

    @property
    def encodings(self) -> list[Encoding] | None:
        """Return the backend's encodings, one per row; None when the batch was built from ids."""
        return self._encodings

    @property
    def n_sequences(self) -> int | None:
        """Return 2 for pairs, 1 for single texts, None when unknown."""
        return self._encodings[0].n_sequences if self._encodings else None

    def __getitem__(self, item: str | int | slice) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError(
            f"no encoding {item!r}: this batch was built from ids; index it by name, one of {list(self.data)}"
        )

    def __getattr__(self, name: str) -> Any:
        # `data` itself is missing while the object is being unpickled.
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        raise AttributeError(f"BatchEncoding has no {name!r}; it holds {list(data)}")

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "_encodings": self._encodings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of one row as strings."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token the word it belongs to, None for added special tokens."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token 0 (first text), 1 (second text) or None (added special token)."""
        return self._row(batch_index).sequence_ids

    def token_to_sequence(self, batch_or_token: int, token: int | None = None) -> int | None:
        """Return which text a token comes from; call with (token) or (row, token)."""
        row, token = self._address(batch_or_token, token)
        return row.token_to_sequence(token % len(row) if token < 0 else token)

    def token_to_word(self, batch_or_token: int, token: int | None = None) -> int | None:
        """Return the word of a token; call with (token) or (row, token)."""
        row, token = self._address(batch_or_token, token)
        return row.token_to_word(token % len(row) if token < 0 else token)

    def token_to_chars(self, batch_or_token: int, token: int | None = None) -> CharSpan | None:
        """Return the characters of a token; call with (token) or (row, token)."""
        row, token = self._address(batch_or_token, token)
        span = row.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def word_to_tokens(self, batch_or_word: int, word: int | None = None, sequence_index: int = 0) -> TokenSpan | None:
        """Return the tokens of a word; call with (word) or (row, word)."""
        row, word = self._address(batch_or_word, word)
        span = row.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(self, batch_or_word: int, word: int | None = None, sequence_index: int = 0) -> CharSpan | None:
        """Return the characters of a word; call with (word) or (row, word)."""
        row, word = self._address(batch_or_word, word)
        span = row.word_to_chars(word, sequence_index)
        return None if span is None else CharSpan(*span)

    def char_to_token(self, batch_or_char: int, char: int | None = None, sequence_index: int = 0) -> int | None:
        """Return the token that holds a character; call with (char) or (row, char)."""
        row, char = self._address(batch_or_char, char)
        return row.char_to_token(char, sequence_index)

    def char_to_word(self, batch_or_char: int, char: int | None = None, sequence_index: int = 0) -> int | None:
        """Return the word that holds a character; call with (char) or (row, char)."""
        row, char = self._address(batch_or_char, char)
        return row.char_to_word(char, sequence_index)

    def convert_to_tensors(self, tensor_type: str | None) -> BatchEncoding:
        """Turn lists into arrays in place: "np" gives int64 numpy, "jax" gives int32 jax arrays."""
        if tensor_type is None:
            return self
        for name, value in self.data.items():
            self.data[name] = to_array(name, value, tensor_type)
        return self

    def _row(self, index: int) -> Encoding:
        if not self._encodings:
            raise ValueError("words and characters are known only to batches made by calling a tokenizer on text")
        return self._encodings[index]

    def _address(self, first: int, second: int | None) -> tuple[Encoding, int]:
        return (self._row(0), first) if second is None else (self._row(first), second)


def collect(encodings: Sequence[Encoding], input_names: Sequence[str], asked: Mapping[str, Any]) -> BatchEncoding:
    """Gather the lists a call asked for, by default those the model reads; overflow becomes rows of its own."""
    overflow = asked["return_overflowing_tokens"]
    rows = [(i, e) for i, first in enumerate(encodings) for e in [first, *(first.overflowing if overflow else ())]]
    data: dict[str, Any] = {"input_ids": [e.ids for _, e in rows]}
    for name, attribute in (("token_type_ids", "type_ids"), ("attention_mask", "attention_mask")):
        wanted = asked[f"return_{name}"]
        if name in input_names if wanted is None else wanted:
            data[name] = [getattr(e, attribute) for _, e in rows]
    if asked["return_special_tokens_mask"]:
        data["special_tokens_mask"] = [e.special_tokens_mask for _, e in rows]
    if asked["return_offsets_mapping"]:
        data["offset_mapping"] = [e.offsets for _, e in rows]
    if asked["return_length"]:
        data["length"] = [len(e) for _, e in rows]
    if overflow:
        data["overflow_to_sample_mapping"] = [i for i, _ in rows]
    return BatchEncoding(data, [e for _, e in rows])


def to_array(name: str, value: Any, tensor_type: str) -> Any:
    """Turn one input into an array. Raises ValueError when the rows have different lengths."""
    if tensor_type not in ("np", "jax"):
        raise ValueError(f'return_tensors must be None, "np" or "jax", not {tensor_type!r}')
    try:
        array = np.asarray(value)
    except ValueError:  # numpy refuses ragged lists with a message that does not say what to do
        array = None
    if array is None or array.dtype == object:
        raise ValueError(
            f"the rows of {name} have different lengths and cannot become one array: pass padding=True "
            "and, if texts may be too long, truncation=True with max_length"
        )
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(np.int64)
    if tensor_type == "np":
        return array
    import jax.numpy as jnp  # the only use of jax in this package, and only when asked for

    return jnp.asarray(array, dtype=jnp.int32 if array.dtype.kind in "iu" else None)
