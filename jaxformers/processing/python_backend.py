"""A backend in Python, for vocabularies that `tokenizers` cannot express: bytes, characters, letters of speech.

It has the face of `tokenizers.Tokenizer`, so that one `Tokenizer` calls both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tokenizers import AddedToken

from jaxformers.processing.added_tokens import AddedTokens
from jaxformers.processing.encoding import Encoding, Piece
from jaxformers.processing.windows import windows


class Alphabet(Protocol):
    """A vocabulary whose tokens are bytes or characters."""

    def __len__(self) -> int: ...

    def pieces(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield every token of a text, with the characters it was made of."""
        ...

    def token_to_id(self, token: str) -> int | None:
        """Return a token's id, None when the alphabet lacks it."""
        ...

    def id_to_token(self, index: int) -> str | None:
        """Return an id's token, None when the alphabet lacks it."""
        ...

    def vocabulary(self) -> dict[str, int]:
        """Return every token with its id."""
        ...

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        """Return the text of tokens, added ones among them."""
        ...


@dataclass(frozen=True)
class Ends:
    """Special tokens around one text, `before A after`, and around two, `before A between B after`."""

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    second_kind: int = 0  # the token type of the second text

    def closing(self, pieces: Sequence[Piece], marks: tuple[int, ...]) -> tuple[int, ...]:
        """Return the marks to write behind a text."""
        return marks

    def count(self, pair: bool) -> int:
        """Return how many tokens are added."""
        return len(self.before) + len(self.after) + (len(self.between) if pair else 0)


class PythonBackend:
    """Encodes with an alphabet and added tokens; truncation and padding are settings, as in `tokenizers`."""

    truncation: Mapping[str, Any] | None = None
    padding: Mapping[str, Any] | None = None
    encode_special_tokens = False

    def __init__(self, alphabet: Alphabet, added: Mapping[int, AddedToken], unknown: int | None = None):
        self.model = alphabet
        self.added = AddedTokens(added)
        self.ends = Ends()
        self.unknown = unknown  # the id of what the alphabet lacks

    def enable_truncation(self, **settings: Any) -> None:
        """Set max_length, stride, strategy and direction."""
        self.truncation = settings

    def enable_padding(self, **settings: Any) -> None:
        """Set length, direction, pad_id, pad_token, pad_type_id and pad_to_multiple_of."""
        self.padding = settings

    def no_truncation(self) -> None:
        """Encode texts whole."""
        self.truncation = None

    def no_padding(self) -> None:
        """Leave rows as long as they are."""
        self.padding = None

    def encode_batch(
        self, rows: Iterable[Any], add_special_tokens: bool = True, is_pretokenized: bool = False
    ) -> list[Encoding]:
        """Encode texts, pairs of texts, lists of words or pairs of these. Raises TypeError on other things."""
        encodings = [self._encode(*_texts(row, is_pretokenized), add_special_tokens) for row in rows]
        if self.padding is None:
            return encodings
        longest = max(map(len, encodings), default=0)
        return [self._pad(row, self.padding, longest) for row in encodings]

    def _encode(self, first: list[str] | str, second: list[str] | str | None, special: bool) -> Encoding:
        ends = self.ends if special else Ends()
        texts = [list(self._pieces(text)) for text in (first, second) if text is not None]
        if self.truncation is None:
            return self._surround(texts, ends)
        room = self.truncation["max_length"] - ends.count(pair=second is not None)
        kept, *cut = windows(texts, room, self.truncation)
        encoding = self._surround(kept, ends)
        encoding.overflowing = [self._surround(row, ends) for row in cut]
        return encoding

    def _surround(self, texts: Sequence[Sequence[Piece]], ends: Ends) -> Encoding:
        encoding = Encoding(n_sequences=len(texts))
        encoding.extend(self._marks(ends.before), None, 0)
        for sequence, pieces in enumerate(texts):
            kind = sequence * ends.second_kind
            encoding.extend(pieces, sequence, kind)
            marks = ends.after if sequence == len(texts) - 1 else ends.between
            encoding.extend(self._marks(ends.closing(pieces, marks)), None, kind)
        return encoding

    def _marks(self, ids: Iterable[int]) -> list[Piece]:
        return [Piece(index, self.id_to_token(index) or "", 0, 0, None) for index in ids]

    def _pieces(self, text: str | Sequence[str]) -> Iterator[Piece]:
        """Yield the tokens of a text; of pre-split words, with offsets inside each word."""
        if not isinstance(text, str):
            for number, word in enumerate(text):
                for piece in self._pieces(word):
                    yield piece._replace(word=number)
            return
        words = [-1] * len(text)
        for number, found in enumerate(re.finditer(r"\S+", text)):
            words[found.start() : found.end()] = [number] * (found.end() - found.start())
        stretches = [(0, len(text), None)] if self.encode_special_tokens else self.added.cut(text)
        for start, end, index in stretches:
            if index is not None:
                yield Piece(index, text[start:end], start, end, _word(words[start]))
                continue
            for token, first, last in self.model.pieces(text[start:end]):
                found_id = self.token_to_id(token)
                word = _word(words[start + first])
                yield Piece(self._known(found_id, token), token, start + first, start + last, word)

    def _known(self, index: int | None, token: str) -> int:
        if index is None:
            index = self.unknown
        if index is None:
            raise ValueError(f"the vocabulary has no token {token!r} and no unk_token to stand for it")
        return index

    def _pad(self, row: Encoding, padding: Mapping[str, Any], longest: int) -> Encoding:
        target, multiple = padding["length"] or longest, padding["pad_to_multiple_of"] or 1
        missing = -(-target // multiple) * multiple - len(row)
        filler = [Piece(padding["pad_id"], padding["pad_token"], 0, 0, None)] * missing
        padded = row.padded(filler, padding["pad_type_id"], padding["direction"])
        padded.overflowing = [self._pad(one, padding, longest) for one in row.overflowing]
        return padded

    def token_to_id(self, token: str) -> int | None:
        """Return a token's id, None when there is no such token."""
        index = self.added.ids.get(token)
        return self.model.token_to_id(token) if index is None else index

    def id_to_token(self, index: int) -> str | None:
        """Return an id's token, None when there is no such id."""
        added = self.added.by_id.get(index)
        return self.model.id_to_token(index) if added is None else added.content

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids. Raises ValueError on ids outside the vocabulary."""
        special = {i for i, token in self.added.by_id.items() if token.special} if skip_special_tokens else ()
        return self.join([self.named(index) for index in ids if index not in special])

    def named(self, index: int) -> str:
        """Return an id's token. Raises ValueError when there is no such id."""
        if (token := self.id_to_token(index)) is None:
            raise ValueError(f"the vocabulary has no id {index}; it has {self.get_vocab_size()} tokens")
        return token

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens."""
        return self.model.join(tokens, self.added.ids)

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Return the added tokens by id."""
        return dict(sorted(self.added.by_id.items()))

    def add_tokens(self, tokens: Iterable[str | AddedToken]) -> int:
        """Add tokens behind the vocabulary, or set the flags of those it has; returns how many were new."""
        return self._add(tokens, special=False)

    def add_special_tokens(self, tokens: Iterable[str | AddedToken]) -> int:
        """Add tokens as `add_tokens` does, marked as special."""
        return self._add(tokens, special=True)

    def _add(self, tokens: Iterable[str | AddedToken], special: bool) -> int:
        before = size = self.get_vocab_size()
        for token in tokens:
            if isinstance(token, str):
                token = AddedToken(token, normalized=not special, special=special)
            elif special:
                token = AddedToken(**{**token.__getstate__(), "special": True})
            if token.content:
                index = self.token_to_id(token.content)
                self.added.set(size if index is None else index, token)
                size += index is None
        return size - before

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Return the id of every token."""
        return self.model.vocabulary() | (self.added.ids if with_added_tokens else {})

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Return how many tokens there are."""
        extra = sum(self.model.token_to_id(token) is None for token in self.added.ids) if with_added_tokens else 0
        return len(self.model) + extra

    def num_special_tokens_to_add(self, pair: bool) -> int:
        """Return how many special tokens encoding one text, or a pair, adds."""
        return self.ends.count(pair)


def _word(number: int) -> int | None:
    return None if number < 0 else number


def _texts(row: Any, words: bool) -> tuple[Any, Any]:
    """Return the first text and the second or None; a text is a string, or a list of words."""
    kind = (list, tuple) if words else str
    if isinstance(row, kind) and not (words and row and isinstance(row[0], (list, tuple))):
        texts = [row]
    else:
        texts = list(row) if isinstance(row, (list, tuple)) and len(row) == 2 else []
    flat = [item for text in texts if isinstance(text, kind) for item in ([text] if isinstance(text, str) else text)]
    if not texts or not all(isinstance(text, kind) for text in texts) or not all(isinstance(x, str) for x in flat):
        raise TypeError(f"a row must be a text, its words, or a pair of these; found {row!r}")
    return (texts[0], texts[1] if len(texts) == 2 else None)
