"""Packing: several documents in one row, each a segment of its own that attention does not leave."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxformers.core.errors import DataError
from jaxformers.training.data.rows import Row
from jaxformers.training.data.stages import Stage, State, Windowed

Fields = dict[str, np.ndarray]
Plan = Callable[[Sequence[int], int], list[list[int]]]
IGNORED = -100
PER_TOKEN = ("labels", "token_type_ids", "special_tokens_mask")
FILLS = {"labels": IGNORED, "special_tokens_mask": 1}  # what is put at padding; other fields get 0


def first_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which documents share a row of `size` tokens: each goes in the first row that has room."""
    room, rows = np.full(len(lengths), size), []
    for number, length in enumerate(lengths):
        row = int(np.argmax(room[: len(rows) + 1] >= length))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        room[row] -= length
    return rows


def best_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Each document, the longest first, goes in the row that it fills best; quick for millions of documents."""
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(size + 1)]  # rows by the room they have
    rooms = 0  # bit r: whether there is a row with room r
    for number in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = int(lengths[number])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            rooms ^= 0 if with_room[room] else 1 << room
        else:
            room, row = size, len(rows)
            rows.append([])
        rows[row].append(number)
        with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return [sorted(row) for row in rows]


@dataclass(frozen=True)
class Fit:
    """Packs whole documents in rows of `length` tokens, by a plan for every `window` of them.

    long: what becomes of documents that are longer: "split" in documents of their own, "cut", "drop" or "error".
    shift: how far labels lie ahead of the scores that predict them: 1 for causal models, which must not predict a
    document's first token from the one before; 0 for others. pad: the id at padding.
    """

    length: int
    window: int = 2048
    long: Literal["split", "cut", "drop", "error"] = "split"
    shift: int = 1
    pad: int = 0
    plan: Plan = first_fit

    def stage(self, rows: Stage) -> Stage:
        """The documents of `rows`, packed."""
        return Windowed(rows, self.window, self.arrange)

    def arrange(self, rows: list[Row], epoch: int, window: int) -> list[Row]:
        """One window of documents, packed."""
        documents = [(row.number, piece) for row in rows for piece in self.pieces(row)]
        plan = self.plan([len(fields["input_ids"]) for _, fields in documents], self.length)
        return [Row(documents[some[0]][0], self.merged([documents[i][1] for i in some])) for some in plan]

    def pieces(self, row: Row) -> Iterable[Fields]:
        """A document as what fits a row each."""
        fields = document(row)
        count = len(fields["input_ids"])
        if count > self.length and self.long == "error":
            raise DataError(f"row {row.number} of the data has {count} tokens; rows are packed to {self.length}")
        if count > self.length and self.long == "drop" or not count:
            return ()
        stop = min(count, self.length) if self.long == "cut" else count
        starts = range(0, stop, self.length)
        return [{name: v[i : min(i + self.length, stop)] for name, v in fields.items()} for i in starts]

    def merged(self, documents: Sequence[Fields]) -> Fields:
        """One row of several documents."""
        return merge(documents, self.length, shift=self.shift, pad=self.pad)


@dataclass(frozen=True)
class FirstFit(Fit):
    """Packs documents in the order they come."""


@dataclass(frozen=True)
class BestFit(Fit):
    """Packs the longest documents of a window first, which leaves less padding and mixes their order."""

    plan: Plan = best_fit


@dataclass(frozen=True)
class ConcatSplit:
    """Puts documents one after another and splits that in rows of `length`: no padding, but documents are cut.

    What of a document stands in another row is a segment of its own there. shift, pad: as in Fit. `window` documents
    are read at a time.
    """

    length: int
    window: int = 256
    shift: int = 1
    pad: int = 0

    def stage(self, rows: Stage) -> Stage:
        """The documents of `rows`, packed."""
        return Concatenated(rows, self)


class Concatenated:
    """The stage of ConcatSplit. It stands at a token of a document of the window it has read."""

    def __init__(self, rows: Stage, packer: ConcatSplit) -> None:
        self.rows, self.packer = rows, packer
        self.held: list[Row] = []
        self.before: State = {}
        self.at = self.offset = 0

    def begin(self, epoch: int, state: State | None = None) -> None:
        self.rows.begin(epoch, state["rows"] if state else None)
        self.held, self.at, self.offset = [], 0, 0
        if state and (state["at"] or state["offset"]):
            self.look()
            self.at, self.offset = state["at"], state["offset"]

    def look(self) -> bool:
        """Read the next window; whether there was anything to read."""
        self.before, self.at, self.offset = self.rows.state(), 0, 0
        self.held = self.rows.take(self.packer.window)
        return bool(self.held)

    def take(self, count: int) -> list[Row]:
        rows = []
        while len(rows) < count and (row := self.one()) is not None:
            rows.append(row)
        return rows

    def one(self) -> Row | None:
        """The next row; None at the end."""
        parts: list[Fields] = []
        room, number = self.packer.length, -1
        while room and (self.at < len(self.held) or self.look()):
            row = self.held[self.at]
            fields = document(row)
            stop = min(len(fields["input_ids"]), self.offset + room)
            if stop > self.offset:
                number = number if parts else row.number
                parts.append({name: value[self.offset : stop] for name, value in fields.items()})
                room -= stop - self.offset
            done = stop == len(fields["input_ids"])
            self.at, self.offset = (self.at + 1, 0) if done else (self.at, stop)
        packer = self.packer
        return Row(number, merge(parts, packer.length, shift=packer.shift, pad=packer.pad)) if parts else None

    def state(self) -> State:
        if self.at == len(self.held):
            return {"rows": self.rows.state(), "at": 0, "offset": 0}
        return {"rows": self.before, "at": self.at, "offset": self.offset}


def document(row: Row) -> Fields:
    """A document's input_ids, labels (the ids, if it has none) and PER_TOKEN fields; others cannot be packed.

    Raises DataError when lengths differ.
    """
    if "input_ids" not in row.value:
        raise DataError(
            f"row {row.number} of the data cannot be packed: it has no input_ids, only {sorted(row.value)}; "
            "tokenise it with transform="
        )
    ids = np.asarray(row.value["input_ids"])
    fields = {"input_ids": ids}
    for name in PER_TOKEN:
        if row.value.get(name) is None:
            continue
        fields[name] = np.asarray(row.value[name])
        if fields[name].shape != ids.shape:
            raise DataError(
                f"row {row.number} of the data, field {name!r}: has shape {fields[name].shape}, input_ids {ids.shape}; "
                "packing needs one entry for each token"
            )
    return {"labels": ids, **fields}


def merge(documents: Sequence[Mapping[str, Any]], length: int, *, shift: int = 1, pad: int = 0) -> Fields:
    """One row of `length` tokens: the documents' fields, and segment_ids (1, 2, ...; 0 is padding).

    Positions are left to the model, which begins them anew with each segment, at what is its first position.
    """
    sizes = [len(fields["input_ids"]) for fields in documents]
    rest = length - sum(sizes)
    out = {}
    for name in documents[0]:
        parts = [np.array(fields[name]) for fields in documents]
        if name == "labels":
            for part in parts:
                part[:shift] = IGNORED
        fill = pad if name == "input_ids" else FILLS.get(name, 0)
        out[name] = np.concatenate([*parts, np.full(rest, fill, parts[0].dtype)]).astype(np.int32)
    out["segment_ids"] = np.repeat([*range(1, len(sizes) + 1), 0], [*sizes, rest]).astype(np.int32)
    return out


class PackedSource:
    """An indexed source packed by the lengths of its documents: each process reads only what it needs.

    lengths: tokens of each document; read from the source when None. packer: a Fit, whose plan sees all documents.
    Documents that are too long are cut, as a row holds whole ones only.
    """

    def __init__(self, source: Any, packer: Fit, lengths: Sequence[int] | None = None) -> None:
        if lengths is None:
            lengths = [len(source[i]["input_ids"]) for i in range(len(source))]
        if len(lengths) != len(source):
            raise DataError(f"there are {len(lengths)} lengths for {len(source)} documents; give one for each")
        self.source, self.packer = source, packer
        self.plan = packer.plan(np.minimum(lengths, packer.length).tolist(), packer.length)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Fields:
        documents = [document(Row(i, self.source[i])) for i in self.plan[index]]
        return self.packer.merged([{k: v[: self.packer.length] for k, v in d.items()} for d in documents])


def packing_efficiency(rows: Iterable[Mapping[str, Any]]) -> float:
    """The share of places that hold tokens, over packed rows or batches of them."""
    kept = slots = 0
    for row in rows:
        segments = np.asarray(row["segment_ids"])
        kept, slots = kept + int(np.count_nonzero(segments)), slots + segments.size
    return kept / max(slots, 1)
