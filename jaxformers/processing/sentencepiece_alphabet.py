"""SentencePiece's own unigram algorithm, for tokenizer classes that are made of it: piece for piece what it gives.

The sums are rounded to float32 at each step as sentencepiece does, because among equal paths rounding decides.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.charsmap import replacements
from jaxformers.processing.sentencepiece import (
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    read_sentencepiece,
)
from jaxformers.processing.sentencepiece_backend import load_sentencepiece

SPACE = "▁"
UNKNOWN_PENALTY = 10.0  # below the worst piece
USER_PENALTY = 0.1
Token = tuple[str, int, int]  # a piece, and the characters of the text it was made of


class Rules:
    """Texts to replace, the longest first."""

    def __init__(self, table: Mapping[str, str]):
        self.table = table
        self.lengths: dict[str, list[int]] = {}
        for key in table:
            self.lengths.setdefault(key[0], []).append(len(key))
        for lengths in self.lengths.values():
            lengths[:] = sorted(set(lengths), reverse=True)

    def match(self, text: str, at: int) -> str | None:
        """Return the longest text that is to be replaced here."""
        for length in self.lengths.get(text[at], ()):
            if (key := text[at : at + length]) in self.table:
                return key
        return None


class SentencePieces:
    """A unigram model as an alphabet of pieces."""

    def __init__(self, data: bytes):
        """Take a file's bytes. Raises ValueError when they are damaged."""
        self.data = data
        self.model = model = read_sentencepiece(data)
        self.ids = {piece.text: index for index, piece in enumerate(model.pieces)}
        self.symbols = Rules({piece.text: piece.text for piece in model.pieces if piece.kind == USER_DEFINED})
        self.rules = Rules(replacements(model.charsmap))
        normal = [piece.score for piece in model.pieces if piece.kind == NORMAL]
        self.unknown_score = array("f", [min(normal, default=0.0) - UNKNOWN_PENALTY])[0]
        best = max(normal, default=0.0)
        self.scores = {
            piece.text: array("f", [best * len(piece.text.encode())])[0] - USER_PENALTY
            if piece.kind == USER_DEFINED
            else piece.score
            for piece in model.pieces
            if piece.kind in (NORMAL, USER_DEFINED)
        }
        known = (piece.text for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED, UNUSED))
        self.prefixes = {text[:i] for text in known for i in range(1, len(text) + 1)}

    def __len__(self) -> int:
        return len(self.model.pieces)

    def token_to_id(self, token: str) -> int | None:
        """Return a piece's id."""
        return self.ids.get(token)

    def id_to_token(self, index: int) -> str | None:
        """Return the piece of an id."""
        return self.model.pieces[index].text if 0 <= index < len(self) else None

    def vocabulary(self) -> dict[str, int]:
        """Return the pieces with their ids."""
        return dict(self.ids)

    def pieces(self, text: str) -> Iterator[Token]:
        """Yield the pieces of a text; unknown letters beside each other are one piece, or bytes."""
        written, origin = self.normalize(text)
        last = 0
        for known, run in groupby(self._best(written), key=lambda span: span[2]):
            spans = list(run)
            if not known and not self.model.byte_fallback:
                spans = [(spans[0][0], spans[-1][1], False)]
            for start, end, _ in spans:
                first, last = min(origin[start], max(len(text) - 1, 0)), origin[end]
                piece = written[start:end]
                names = [piece] if known or not self.model.byte_fallback else _bytes_of(piece)
                yield from ((name, first, last) for name in names)

    def normalize(self, text: str) -> tuple[str, list[int]]:
        """Return the text as the pieces are written, and where in `text` each of its characters comes from."""
        spec = self.model
        at, written, origin = 0, [], []
        space = SPACE if spec.escape_whitespaces else " "
        if spec.remove_extra_whitespaces:
            while at < len(text) and (step := self._step(text, at))[0] == " ":
                at += step[1]
        if at == len(text):
            return "", [at]
        if spec.add_dummy_prefix and not spec.treat_whitespace_as_suffix:
            written.append(space)
            origin.append(at)
        after_space = spec.remove_extra_whitespaces
        while at < len(text):
            letters, length = self._step(text, at)
            if after_space:
                letters = letters.lstrip(" ")
            if letters:
                written += letters.replace(" ", space) if spec.escape_whitespaces else letters
                origin += [at] * len(letters)
                after_space = spec.remove_extra_whitespaces and letters.endswith(" ")
            at += length
        if spec.remove_extra_whitespaces:
            while written and written[-1] == space:
                written.pop()
                at = origin.pop()
        if spec.add_dummy_prefix and spec.treat_whitespace_as_suffix:
            written.append(space)
            origin.append(at)
        return "".join(written), [*origin, at]

    def _step(self, text: str, at: int) -> tuple[str, int]:
        """Return what the characters here are written as, and how many they are."""
        if (key := self.symbols.match(text, at)) is not None:
            return key, len(key)
        if (key := self.rules.match(text, at)) is not None:
            return self.rules.table[key], len(key)
        return text[at], 1

    def _best(self, text: str) -> list[tuple[int, int, bool]]:
        """Return start, end and whether it is a piece, of each part of the best path."""
        size = len(text)
        total, come = array("f", bytes(4 * (size + 1))), [-1] * (size + 1)
        known = [True] * (size + 1)
        scores, prefixes = self.scores, self.prefixes
        for start in range(size):
            here, single = total[start], False
            for end in range(start + 1, size + 1):
                piece = text[start:end]
                if piece not in prefixes:
                    break
                score = scores.get(piece)
                if score is None:
                    continue
                single = single or end == start + 1
                if come[end] < 0 or score + here > total[end]:
                    total[end], come[end], known[end] = score + here, start, True
            if not single:
                total_unknown = array("f", [self.unknown_score + here])[0]
                if come[start + 1] < 0 or total_unknown > total[start + 1]:
                    total[start + 1], come[start + 1], known[start + 1] = total_unknown, start, False
        path, end = [], size
        while end > 0:
            path.append((come[end], end, known[end]))
            end = come[end]
        return path[::-1]

    def text_of(self, tokens: Iterable[str]) -> str:
        """Return the text of pieces; bytes that are no character become U+FFFD."""
        text, spaces_consumed = "", False
        at_start = self.model.add_dummy_prefix or self.model.remove_extra_whitespaces
        for is_byte, run in groupby(tokens, key=lambda token: self._kind(token) == BYTE):
            if is_byte:
                text += _decode_bytes(bytes(int(token[3:5], 16) for token in run))
                continue
            for token in run:
                at_start = at_start and not text and not spaces_consumed
                shown = self._shown(token, at_start)
                spaces_consumed = at_start and shown[1]
                text += shown[0]
        return text

    def _shown(self, token: str, at_start: bool) -> tuple[str, bool]:
        """Return how a piece is written, and whether the space before a text was left out."""
        kind = self._kind(token)
        if kind == CONTROL:
            return "", False
        if kind == UNKNOWN:
            return (self.model.unk_surface if token in self.ids else token), False
        cut = at_start and token.startswith(SPACE)
        shown = token[1:] if cut else token
        return shown.replace(SPACE, " "), cut and not self.model.remove_extra_whitespaces

    def _kind(self, token: str) -> int:
        index = self.ids.get(token)
        return UNKNOWN if index is None else self.model.pieces[index].kind

    def join(self, tokens: Sequence[str], added: object) -> str:
        """Return the text of pieces."""
        return self.text_of(tokens)


def read_pieces(file: Path) -> bytes:
    """Return the bytes of a unigram model. Raises CheckpointError when they are none."""
    algorithm = load_sentencepiece(file).algorithm
    if algorithm != UNIGRAM:
        raise CheckpointError(
            f"{file} is a SentencePiece model of kind {algorithm}; this class reads unigram models (1)"
        )
    return file.read_bytes()


def _bytes_of(piece: str) -> list[str]:
    return [f"<0x{byte:02X}>" for byte in piece.encode("utf-8")]


def _decode_bytes(data: bytes) -> str:
    """Decode character by character: each byte that begins none is a replacement character of its own."""
    text, at = [], 0
    while at < len(data):
        for length in (1, 2, 3, 4):
            try:
                text.append(data[at : at + length].decode("utf-8"))
                break
            except UnicodeDecodeError:
                continue
        else:
            text.append("\ufffd")
            length = 1
        at += length
    return "".join(text)
