"""Tokenizers without tokenizer.json, written in Python: what their classes share, and how they are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken

from jaxformers.processing.batch import BatchEncoding
from jaxformers.processing.decoding import clean_up
from jaxformers.processing.python_backend import Alphabet, Ends, PythonBackend
from jaxformers.processing.settings import Settings
from jaxformers.processing.texts import rows_of
from jaxformers.processing.tokenizer import Tokenizer


class PythonTokenizer(Tokenizer):
    """A tokenizer over a `PythonBackend`. A subclass says what its alphabet is and what surrounds a text.

    Unlike transformers' tokenizers of this kind it knows offsets and words, and gives what truncation cut off as rows
    of their own, as all other tokenizers do.
    """

    is_fast = False
    tokens: ClassVar[Mapping[str, Any]] = {}  # options when the files name none
    inputs: ClassVar[Sequence[str]] = ("input_ids", "attention_mask")
    backend_kind: ClassVar[type[PythonBackend]] = PythonBackend
    _backend: PythonBackend

    @classmethod
    def prepare(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options with those that follow from others."""
        return dict(options)

    @classmethod
    def read(cls, folder: Path, options: Mapping[str, Any]) -> tuple[Alphabet, dict[int, AddedToken]]:
        """Return the alphabet, and the tokens with fixed ids that are no part of it. Raises CheckpointError."""
        raise NotImplementedError

    def __init__(self, backend: PythonBackend, settings: Settings):
        super().__init__(backend, settings)  # type: ignore[arg-type]
        missing = [token for token in self.all_special_tokens if token not in backend.added.ids]
        backend.add_special_tokens(missing)
        self.update_post_processor()

    def ends(self) -> Ends:
        """Return the special tokens around texts."""
        return Ends()

    def update_post_processor(self) -> None:
        """Tell the backend the ids of the special tokens that it writes itself."""
        unknown = self.unk_token
        self._backend.unknown = None if unknown is None else self._backend.token_to_id(unknown)
        self._backend.ends = self.ends()

    def __setattr__(self, key: str, value: Any) -> None:
        super().__setattr__(key, value)
        if key.endswith(("_token", "_token_id")) and isinstance(self.__dict__.get("_backend"), PythonBackend):
            self.update_post_processor()

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens to the vocabulary and return how many were new; special ones join `extra_special_tokens`."""
        count = super().add_tokens(new_tokens, special_tokens)
        listed = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else new_tokens or ()
        known = set(self.all_special_tokens)
        for token in map(str, listed):
            added = self._backend.added
            if token in added.ids and added.by_id[added.ids[token]].special and token not in known:
                self._extra.append(token)
        self.update_post_processor()
        return count

    @staticmethod
    def _rows(text: Any, pair: Any, words: bool) -> tuple[list[Any], bool]:
        if isinstance(text, str) and pair == "" and not words:
            return [(text, pair)], False  # an empty second text is a text here, unlike in `tokenizers`
        return rows_of(text, pair, words)

    def _encode(self, text: Any, pair: Any, *, is_split_into_words: bool, **o: Any) -> BatchEncoding:
        batch = super()._encode(text, pair, is_split_into_words=is_split_into_words, **o)
        first = o["return_overflowing_tokens"] and o["truncation"] in (True, "longest_first")
        if first and any(row.n_sequences == 2 for row in batch.encodings or ()):
            raise ValueError('return_overflowing_tokens with pairs needs truncation="only_first" or "only_second"')
        return batch

    def _text(self, ids: list[int], skip: bool, clean: bool) -> str:
        text = self.convert_tokens_to_string(self._kept(ids, skip))
        return clean_up(text) if clean else text

    def _kept(self, ids: Sequence[int], skip: bool) -> list[str]:
        special = set(self.all_special_ids) if skip else ()
        return [self._backend.named(index) for index in ids if index not in special]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join tokens into text."""
        return self._backend.join(tokens)

    def vocabulary_files(self) -> dict[str, str | bytes]:
        """Return the files that hold the vocabulary, by name; an alphabet needs none."""
        return {}

    def saved_options(self) -> dict[str, Any]:
        """Return the added tokens with their flags."""
        added = self.added_tokens_decoder.items()
        return {"added_tokens_decoder": {str(index): token.__getstate__() for index, token in added}}


def added_token(value: str | AddedToken, **flags: bool) -> AddedToken:
    """Return a token with these flags unless it has its own."""
    return AddedToken(value, **flags) if isinstance(value, str) else value
