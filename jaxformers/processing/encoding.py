"""One encoded text in plain Python, with the face of `tokenizers.Encoding`: tokens, their words and characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class Piece(NamedTuple):
    """A token, the characters `start` to `end` it was made of, and the word they belong to."""

    id: int
    token: str
    start: int
    end: int
    word: int | None


@dataclass
class Encoding:
    """Lists with one entry for each token; None in `word_ids` and `sequence_ids` marks tokens that were added."""

    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    word_ids: list[int | None] = field(default_factory=list)
    sequence_ids: list[int | None] = field(default_factory=list)
    type_ids: list[int] = field(default_factory=list)
    special_tokens_mask: list[int] = field(default_factory=list)
    attention_mask: list[int] = field(default_factory=list)
    overflowing: list[Encoding] = field(default_factory=list)
    n_sequences: int = 1

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, pieces: Iterable[Piece], sequence: int | None, kind: int, *, padding: bool = False) -> None:
        """Append tokens of text `sequence`, or tokens that no text holds when it is None."""
        for piece in pieces:
            self.ids.append(piece.id)
            self.tokens.append(piece.token)
            self.offsets.append((piece.start, piece.end))
            self.word_ids.append(piece.word)
            self.sequence_ids.append(sequence)
            self.type_ids.append(kind)
            self.special_tokens_mask.append(int(sequence is None))
            self.attention_mask.append(int(not padding))

    def padded(self, filler: Sequence[Piece], kind: int, direction: str) -> Encoding:
        """Return a copy with padding on one side; the overflowing rows are left as they are."""
        row = Encoding(n_sequences=self.n_sequences, overflowing=self.overflowing)
        row.extend(filler, None, kind, padding=True)
        left, right = (row, self) if direction == "left" else (self, row)
        names = "ids tokens offsets word_ids sequence_ids type_ids special_tokens_mask attention_mask".split()
        return replace(row, **{name: getattr(left, name) + getattr(right, name) for name in names})

    def token_to_sequence(self, token: int) -> int | None:
        """Return which text a token comes from."""
        return self.sequence_ids[token] if token < len(self) else None

    def token_to_word(self, token: int) -> int | None:
        """Return the word of a token."""
        return self.word_ids[token] if token < len(self) else None

    def token_to_chars(self, token: int) -> tuple[int, int] | None:
        """Return the characters of a token."""
        return self.offsets[token] if self.token_to_sequence(token) is not None else None

    def word_to_tokens(self, word: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """Return the first token of a word, and the one after its last."""
        tokens = [i for i in self._of(sequence_index) if self.word_ids[i] == word]
        return (tokens[0], tokens[-1] + 1) if tokens else None

    def word_to_chars(self, word: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """Return the characters of a word."""
        span = self.word_to_tokens(word, sequence_index)
        return None if span is None else (self.offsets[span[0]][0], self.offsets[span[1] - 1][1])

    def char_to_token(self, char: int, sequence_index: int = 0) -> int | None:
        """Return the first token that holds a character."""
        return next((i for i in self._of(sequence_index) if self.offsets[i][0] <= char < self.offsets[i][1]), None)

    def char_to_word(self, char: int, sequence_index: int = 0) -> int | None:
        """Return the word that holds a character."""
        token = self.char_to_token(char, sequence_index)
        return None if token is None else self.word_ids[token]

    def _of(self, sequence_index: int) -> list[int]:
        return [i for i, sequence in enumerate(self.sequence_ids) if sequence == sequence_index]
