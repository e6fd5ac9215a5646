"""SigLIP's tokenizer: lower case, no punctuation, SentencePiece, and `</s>` behind each text."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.byt5 import EndsOnce
from jaxformers.processing.encoding import Piece
from jaxformers.processing.python_backend import Alphabet, Ends, PythonBackend
from jaxformers.processing.python_tokenizer import PythonTokenizer
from jaxformers.processing.sentencepiece_alphabet import SPACE, SentencePieces, Token, read_pieces

PUNCTUATION = frozenset(string.punctuation)
FILES = ("spiece.model", "tokenizer.model")


class CleanPieces(SentencePieces):
    """Pieces of a text without capitals, punctuation and wide blanks.

    transformers encodes each text behind the unknown token and drops that token's own pieces.
    """

    def __init__(self, data: bytes, unknown: str, lower: bool):
        super().__init__(data)
        self.unknown, self.lower = unknown, lower
        self.lead = len(list(super().pieces(unknown)))

    def pieces(self, text: str) -> Iterator[Token]:
        """Yield the pieces of a text."""
        clean, origin = self._clean(text)
        found = list(super().pieces(self.unknown + clean))
        for token, first, last in found[self.lead :] if len(found) >= self.lead else found:
            begin = max(first - len(self.unknown), 0)
            yield token, origin[begin], origin[max(last - len(self.unknown), begin)]

    def _clean(self, text: str) -> tuple[str, list[int]]:
        """Return the cleaned text and where each of its characters, and its end, is in `text`."""
        lowered = text.lower() if self.lower else text
        lengths = [len(letter.lower()) if self.lower else 1 for letter in text]
        places = [at for at, length in enumerate(lengths) for _ in range(length)]
        clean, origin = [], []
        for letter, at in zip(lowered, places, strict=True):
            if letter in PUNCTUATION or letter.isspace() and (not clean or clean[-1] == " "):
                continue
            clean.append(" " if letter.isspace() else letter)
            origin.append(at)
        if clean and clean[-1] == " ":
            clean.pop()
            origin.pop()
        return "".join(clean), [*origin, origin[-1] + 1 if origin else 0]


class MarkedBackend(PythonBackend):
    """Writes the mark of a word's start before each text."""

    def _pieces(self, text: str | Sequence[str]) -> Iterator[Piece]:
        if not isinstance(text, str):
            yield from super()._pieces(text)
            return
        pieces = list(super()._pieces(SPACE + text.replace(SPACE, " ")))
        special = {token.content for token in self.added.by_id.values() if token.special}
        if len(pieces) > 1 and pieces[0].token == SPACE and pieces[1].token in special:
            pieces = pieces[1:]
        alone = not text or text[0].isspace()  # the mark counts as a word of its own
        for piece in pieces:
            word = piece.word if piece.word is None or not alone else max(piece.word - 1, 0)
            yield piece._replace(start=max(piece.start - 1, 0), end=max(piece.end - 1, 0), word=word)


class SiglipTokenizer(PythonTokenizer):
    """SentencePiece pieces of lower-case words, as SigLIP's text tower reads them."""

    tokens = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"} | {
        "model_max_length": 64,
        "do_lower_case": True,
    }
    backend_kind = MarkedBackend

    @classmethod
    def read(cls, folder: Path, options: Mapping[str, Any]) -> tuple[Alphabet, dict[int, AddedToken]]:
        """Return the pieces of spiece.model."""
        file = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if file is None:
            raise CheckpointError(f"{folder} has no {' or '.join(FILES)}, which hold SigLIP's vocabulary")
        unknown = options["unk_token"]
        unknown = unknown["content"] if isinstance(unknown, dict) else str(unknown)
        return CleanPieces(read_pieces(file), unknown, bool(options["do_lower_case"])), {}

    def ends(self) -> Ends:
        """`</s>` behind each text that does not end with it."""
        eos = (self.eos_token_id,)
        return EndsOnce(between=eos, after=eos)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join pieces into text, special tokens as they are."""
        special, text, waiting, after_special = set(self.all_special_tokens), "", [], False
        for token in tokens:
            if token in special:
                text += ("" if after_special else " ") + self._pieces_of.text_of(waiting) + token
                waiting = []
            else:
                waiting.append(token)
            after_special = token in special
        return (text + self._pieces_of.text_of(waiting)).strip()

    @property
    def _pieces_of(self) -> SentencePieces:
        return self._backend.model  # type: ignore[return-value]

    def vocabulary_files(self) -> dict[str, str | bytes]:
        """Return spiece.model as it was read."""
        return {FILES[0]: self._pieces_of.data}
