"""SentencePiece `.model` files, read without protobuf; field numbers are those of sentencepiece_model.proto."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE, WORD, CHAR = range(1, 5)
VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)
MAX_DEPTH = 100  # of nested groups, protobuf's own limit


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; `kind` is NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclass(frozen=True)
class SentencePieceModel:
    """What a `.model` file says: pieces in the order of their ids, how it was trained, how text is normalised."""

    pieces: tuple[Piece, ...]
    algorithm: int = UNIGRAM
    treat_whitespace_as_suffix: bool = False
    byte_fallback: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    unk_surface: str = " \u2047 "
    unk_piece: str = "<unk>"
    bos_piece: str = "<s>"
    eos_piece: str = "</s>"
    pad_piece: str = "<pad>"
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


def read_sentencepiece(data: bytes) -> SentencePieceModel:
    """Parse a serialised ModelProto. Raises ValueError that says where a damaged file stops making sense."""
    pieces: list[Piece] = []
    found: dict[str, Any] = {}
    parts = set()
    for number, wire, value in _fields(data, "the model"):
        if number == 1 and wire == BYTES:
            pieces.append(_piece(value, len(pieces)))
        elif number in _SPECS and wire == BYTES:
            parts.add(number)
            found |= _read(value, _SPECS[number], ("", "", "trainer_spec", "normalizer_spec")[number])
    if not pieces:
        raise ValueError("it holds no pieces")
    if missing := [name for number, name in ((2, "trainer_spec"), (3, "normalizer_spec")) if number not in parts]:
        raise ValueError(f"it has no {missing[0]}, so it was cut off or is no SentencePiece model")
    model = SentencePieceModel(tuple(pieces), **found)
    if not 0 <= model.unk_id < len(pieces):
        raise ValueError(f"its unk_id is {model.unk_id} and it has {len(pieces)} pieces")
    return model


def _piece(data: bytes, index: int) -> Piece:
    piece = Piece(**{"text": "", **_read(data, _PIECE, f"piece {index}")})
    if not math.isfinite(piece.score):
        raise ValueError(f"piece {index} has the score {piece.score}")
    return piece


def _read(data: bytes, known: Mapping[int, tuple[str, int, Callable]], where: str) -> dict[str, Any]:
    """Return the fields of a message that `known` names; protobuf skips those of another wire type, too."""
    found = {}
    for number, wire, value in _fields(data, where):
        name, expected, convert = known.get(number, ("", -1, bytes))
        if wire == expected and (converted := convert(value, f"{where}.{name}")) is not None:
            found[name] = converted
    return found


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int, Any]]:
    """Yield (field number, wire type, value) of each field; groups are skipped."""
    position, open_groups = 0, []
    while position < len(data):
        key, position = _varint(data, position, where)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"{where} has a field numbered {number} near byte {position}")
        value: Any = None
        if wire == VARINT:
            value, position = _varint(data, position, where)
        elif wire in (FIXED32, FIXED64, BYTES):
            size = 4 if wire == FIXED32 else 8
            if wire == BYTES:
                size, position = _varint(data, position, where)
            if position + size > len(data):
                raise ValueError(f"{where} ends inside field {number}: {size} bytes promised at byte {position}")
            value = data[position : position + size]
            position += size
        elif wire == GROUP and len(open_groups) < MAX_DEPTH:
            open_groups.append(number)
        elif wire == END_GROUP and open_groups and open_groups[-1] == number:
            open_groups.pop()
            continue
        else:
            raise ValueError(f"{where} has a field of wire type {wire} near byte {position}")
        if not open_groups:
            yield number, wire, value
    if open_groups:
        raise ValueError(f"{where} ends inside group {open_groups[-1]}")


def _varint(data: bytes, position: int, where: str) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if position >= len(data):
            raise ValueError(f"{where} ends inside a number at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value & (1 << 64) - 1, position
    raise ValueError(f"{where} has a number of more than 10 bytes before byte {position}")


def _int32(value: int, where: str) -> int:
    value &= (1 << 32) - 1
    return value - (1 << 32) if value >> 31 else value


def _enum(highest: int) -> Callable[[int, str], int | None]:
    """Return a reader of an enum from 1; protobuf drops values that it does not know."""
    return lambda value, where: value if 1 <= value <= highest else None


def _bool(value: int, where: str) -> bool:
    return bool(value)


def _float(value: bytes, where: str) -> float:
    return struct.unpack("<f", value)[0]


def _bytes(value: bytes, where: str) -> bytes:
    return value


def _text(value: bytes, where: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8: {value[:40]!r}") from error


_PIECE = {1: ("text", BYTES, _text), 2: ("score", FIXED32, _float), 3: ("kind", VARINT, _enum(BYTE))}
_SPECS: dict[int, dict[int, tuple[str, int, Callable]]] = {
    2: {
        3: ("algorithm", VARINT, _enum(CHAR)),
        24: ("treat_whitespace_as_suffix", VARINT, _bool),
        35: ("byte_fallback", VARINT, _bool),
        40: ("unk_id", VARINT, _int32),
        41: ("bos_id", VARINT, _int32),
        42: ("eos_id", VARINT, _int32),
        43: ("pad_id", VARINT, _int32),
        44: ("unk_surface", BYTES, _text),
        45: ("unk_piece", BYTES, _text),
        46: ("bos_piece", BYTES, _text),
        47: ("eos_piece", BYTES, _text),
        48: ("pad_piece", BYTES, _text),
    },
    3: {
        2: ("charsmap", BYTES, _bytes),
        3: ("add_dummy_prefix", VARINT, _bool),
        4: ("remove_extra_whitespaces", VARINT, _bool),
        5: ("escape_whitespaces", VARINT, _bool),
    },
}
