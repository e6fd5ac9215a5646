"""CANINE's tokenizer: every character is a token, and its code point is its id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from jaxformers.processing.python_backend import Ends
from jaxformers.processing.python_tokenizer import PythonTokenizer

SIZE = 0x110000
# Characters for private use serve as special tokens; the names are those of google-research/language, canine.
NAMES = {0: "[PAD]", 0xE000: "[CLS]", 0xE001: "[SEP]", 0xE002: "[BOS]", 0xE003: "[MASK]", 0xE004: "[RESERVED]"}


class CodePoints:
    """Every character of Unicode."""

    def __len__(self) -> int:
        return SIZE

    def pieces(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield the characters of a text."""
        return ((letter, at, at + 1) for at, letter in enumerate(text))

    def token_to_id(self, token: str) -> int | None:
        """Return a character's code point."""
        return ord(token) if len(token) == 1 else None

    def id_to_token(self, index: int) -> str | None:
        """Return the character of a code point, or the name of a special one."""
        return NAMES.get(index) or chr(index) if 0 <= index < SIZE else None

    def vocabulary(self) -> dict[str, int]:
        """Return every character with its code point."""
        return {chr(index): index for index in range(SIZE)}

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        """Return the text of characters."""
        return "".join(tokens)


class CanineTokenizer(PythonTokenizer):
    """Characters as tokens, with a token for classification in front and a separator behind each text."""

    tokens = {
        "bos_token": "\ue000",
        "eos_token": "\ue001",
        "sep_token": "\ue001",
        "cls_token": "\ue000",
        "pad_token": "\0",
        "mask_token": "\ue003",
        "model_max_length": 2048,
    }
    inputs = ("input_ids", "attention_mask", "token_type_ids")

    @classmethod
    def read(cls, folder: Path, options: Mapping[str, Any]) -> tuple[CodePoints, dict[int, AddedToken]]:
        """Return the alphabet, which needs no file."""
        return CodePoints(), {}

    def ends(self) -> Ends:
        """CLS in front, SEP behind each text."""
        return Ends((self.cls_token_id,), (self.sep_token_id,), (self.sep_token_id,))
