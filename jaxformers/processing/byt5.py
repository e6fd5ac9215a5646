"""ByT5's tokenizer: every byte of UTF-8 is a token, after three special ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from jaxformers.processing.encoding import Piece
from jaxformers.processing.python_backend import Ends
from jaxformers.processing.python_tokenizer import PythonTokenizer, added_token

OFFSET = 3  # pad, eos and unk come before the bytes
TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


class Utf8Bytes:
    """The 256 bytes; byte `b` is the token `chr(b)`."""

    def __len__(self) -> int:
        return 256

    def pieces(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield the bytes of a text. Raises TypeError on half a surrogate pair."""
        try:
            for at, letter in enumerate(text):
                for byte in letter.encode():
                    yield chr(byte), at, at + 1
        except UnicodeEncodeError as error:
            raise TypeError(f"{text!r} is not Unicode") from error

    def token_to_id(self, token: str) -> int | None:
        """Return a byte's id."""
        return ord(token) + OFFSET if len(token) == 1 and ord(token) < 256 else None

    def id_to_token(self, index: int) -> str | None:
        """Return the byte of an id."""
        return chr(index - OFFSET) if OFFSET <= index < OFFSET + 256 else None

    def vocabulary(self) -> dict[str, int]:
        """Return the bytes with their ids."""
        return {chr(byte): byte + OFFSET for byte in range(256)}

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        """Return the text of bytes and added tokens; bytes that are no UTF-8 are dropped."""
        data = b"".join(token.encode() if token in added else bytes([ord(token)]) for token in tokens)
        return data.decode("utf-8", errors="ignore")


@dataclass(frozen=True)
class EndsOnce(Ends):
    """Ends that are not written where the text has them already."""

    def closing(self, pieces: Sequence[Piece], marks: tuple[int, ...]) -> tuple[int, ...]:
        """Return the marks unless the text ends with them."""
        return () if pieces and (pieces[-1].id,) == marks else marks


class ByT5Tokenizer(PythonTokenizer):
    """Bytes as tokens, `</s>` behind each text, and `<extra_id_0>` and so on for spans to fill."""

    tokens = TOKENS

    @classmethod
    def prepare(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Name the extra tokens that the files count but do not list."""
        listed = options.get("extra_special_tokens", options.get("additional_special_tokens"))
        if listed is None:
            listed = [f"<extra_id_{i}>" for i in range(options.get("extra_ids", 125))]
        return {**options, "extra_special_tokens": listed, "extra_ids": 0}

    @classmethod
    def read(cls, folder: Path, options: Mapping[str, Any]) -> tuple[Utf8Bytes, dict[int, AddedToken]]:
        """Return the alphabet and the three tokens before it, which swallow the blanks beside them."""
        first = [added_token(options[name], lstrip=True, rstrip=True) for name in TOKENS]
        return Utf8Bytes(), dict(enumerate(first))

    def ends(self) -> Ends:
        """`</s>` behind each text."""
        eos = (self.eos_token_id,)
        return EndsOnce(between=eos, after=eos)
