"""Rows from files: JSON lines, CSV, text and parquet, one file or many, plain or gzipped."""

import csv
import glob
import gzip
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxformers.core.errors import DataError
from jaxformers.core.extras import require
from jaxformers.training.data.sources import Stream

KINDS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "text",
    ".parquet": "parquet",
}  # fmt: skip
Paths = str | Path | Sequence[str | Path]


def read_rows(paths: Paths, kind: str | None = None, *, stream: bool = False) -> Any:
    """Rows of files: paths, or patterns such as "data/*.jsonl.gz". The kind is read from the names by default.

    Text files have a row for each line, `{"text": line}`; CSV's fields are texts. stream: read them in order, one after
    another, instead of by number: for what does not fit memory, or is gzipped. Raises DataError for a bad row.
    """
    files = find(paths)
    kinds = {kind or kind_of(path) for path in files}
    if len(kinds) > 1:
        raise DataError(f"the files are of several kinds, {sorted(kinds)}: read them one kind at a time, or say kind=")
    (kind,) = kinds
    if kind not in READERS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(READERS)}")
    if stream:
        return Stream(FileRows(files, kind))
    if kind == "parquet":
        return ParquetRows(files)
    if kind in ("jsonl", "text") and not any(path.suffix == ".gz" for path in files):
        return LineRows(files, kind)
    return [row for path in files for row in READERS[kind](path)]


def find(paths: Paths) -> list[Path]:
    """The files of some paths and patterns, in order. Raises DataError when there are none."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found = []
    for one in given:
        named = (
            [Path(one)] if Path(one).exists() else [Path(path) for path in sorted(glob.glob(str(one), recursive=True))]
        )
        if not named:
            raise DataError(f"no file is named {one}: check its spelling and the working folder")
        found += named
    return found


def kind_of(path: Path) -> str:
    """The kind of a file by its name. Raises DataError for a name that says none."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in KINDS:
        raise DataError(f"{path} does not say by its name what it holds: say kind=, one of {', '.join(READERS)}")
    return KINDS[suffix.lower()]


class FileRows:
    """Opens files one after another, as a stream does at the beginning of an epoch."""

    def __init__(self, files: list[Path], kind: str) -> None:
        self.files, self.kind = files, kind

    def __call__(self, epoch: int) -> Iterator[dict[str, Any]]:
        for path in self.files:
            yield from READERS[self.kind](path)


def opened(path: Path) -> Any:
    """A file as text, unpacked."""
    return (
        gzip.open(path, "rt", encoding="utf-8", newline="")
        if path.suffix == ".gz"
        else open(path, encoding="utf-8", newline="")
    )


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """A row for each line that is not empty."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield parsed(line, path, number)


def parsed(line: str | bytes, path: Path, number: int) -> dict[str, Any]:
    """A line of JSON. Raises DataError that names file and line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"line {number} of {path} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"line {number} of {path} is a {type(row).__name__}; expected an object with fields")
    return row


def json_list(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one list, or of one object whose only list they are."""
    with opened(path) as file:
        try:
            data = json.load(file)
        except ValueError as error:
            raise DataError(f"{path} is no JSON: {error}; for a row on each line name it .jsonl") from error
    lists = [value for value in data.values() if isinstance(value, list)] if isinstance(data, dict) else [data]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise DataError(f"{path} holds {len(lists)} lists; expected one list of rows")
    yield from lists[0]


def comma_separated(path: Path, delimiter: str = ",") -> Iterator[dict[str, Any]]:
    """Rows by the names in the first line."""
    with opened(path) as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"line {reader.line_num} of {path} has other fields than the first line: {reader.fieldnames}"
                )
            yield row


def tab_separated(path: Path) -> Iterator[dict[str, Any]]:
    """As comma_separated, with tabs."""
    yield from comma_separated(path, "\t")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """A row for each line that is not empty."""
    with opened(path) as file:
        for line in file:
            if line.strip():
                yield {"text": line.rstrip("\r\n")}


def parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file, some thousand at a time."""
    arrow = require("pyarrow.parquet", extra="data", purpose="reading parquet files")
    with arrow.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


READERS = {
    "jsonl": json_lines, "json": json_list, "csv": comma_separated, "tsv": tab_separated, "text": lines,
    "parquet": parquet,
}  # fmt: skip


class LineRows:
    """Lines of files by number: only where each begins is kept, the lines stay in the files."""

    def __init__(self, files: list[Path], kind: str) -> None:
        self.files, self.kind = files, kind
        starts = [line_starts(path) for path in files]
        self.starts = np.concatenate(starts) if starts else np.zeros((0, 3), np.int64)
        self.owner = np.repeat(np.arange(len(files)), [len(one) for one in starts])

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, stop, number = (int(value) for value in self.starts[index])
        path = self.files[self.owner[index]]
        with open(path, "rb") as file:  # opened anew: several threads may read
            file.seek(start)
            line = file.read(stop - start)
        return parsed(line, path, number) if self.kind == "jsonl" else {"text": line.decode().rstrip("\r\n")}


def line_starts(path: Path) -> np.ndarray:
    """First byte, last byte and number of every line that is not empty, Int [lines,3]."""
    out, at = array("q"), 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                out.extend((at, at + len(line), number))
            at += len(line)
    return np.array(out, np.int64).reshape(-1, 3)


class ParquetRows:
    """Rows of parquet files by number; the group of rows that was read last is kept."""

    def __init__(self, files: list[Path]) -> None:
        arrow = require("pyarrow.parquet", extra="data", purpose="reading parquet files")
        self.groups: list[tuple[Path, int]] = []
        sizes = []
        for path in files:
            about = arrow.read_metadata(path)
            self.groups += [(path, i) for i in range(about.num_row_groups)]
            sizes += [about.row_group(i).num_rows for i in range(about.num_row_groups)]
        self.ends = np.cumsum(sizes, dtype=np.int64)
        self.held: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = int(np.searchsorted(self.ends, index, side="right"))
        number, table = self.held
        if number != group:
            table = self.read(group)
            self.held = (group, table)
        first = self.ends[group] - table.num_rows
        return table.slice(int(index - first), 1).to_pylist()[0]

    def read(self, group: int) -> Any:
        """One group of rows as a table."""
        arrow = require("pyarrow.parquet", extra="data", purpose="reading parquet files")
        path, number = self.groups[group]
        with arrow.ParquetFile(path) as file:
            return file.read_row_group(number)
