"""Rows on their way to a batch, and what is said about a bad one: which row, which field."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from jaxformers.core.errors import DataError

UNREAD = object()


class Row(NamedTuple):
    """A row's number in its source (its place, in a stream), and its fields once they have been read."""

    number: int
    value: Any = UNREAD


class BadField(DataError):
    """A collator's complaint about row `place` of its batch; the loader adds which row of the source that is."""

    def __init__(self, place: int, field: str, problem: str) -> None:
        super().__init__(f"row {place} of the batch, field {field!r}: {problem}")
        self.place, self.field, self.problem = place, field, problem


class Reader:
    """Reads rows of an indexed source where that is still to be done, and transforms them, on `threads` threads."""

    def __init__(self, source: Any, transform: Callable | None = None, threads: int = 0) -> None:
        self.source, self.transform, self.threads = source, transform, threads
        self.pool = ThreadPoolExecutor(threads, "jaxformers-data") if threads else None

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with their fields. Raises DataError that names the row."""
        if self.pool is None or len(rows) < 2:
            return self.one_after_another(rows)
        if not hasattr(self.transform, "many"):
            return list(self.pool.map(self.finish, rows))
        size = -(-len(rows) // self.threads)
        parts = self.pool.map(self.one_after_another, [rows[i : i + size] for i in range(0, len(rows), size)])
        return [row for part in parts for row in part]

    def one_after_another(self, rows: Sequence[Row]) -> list[Row]:
        """Read and transform many at a time where source and transform can (`__getitems__`, `many`)."""
        if len(rows) < 2:
            return [self.finish(row) for row in rows]
        try:
            rows = self.read_many(rows)
            many = getattr(self.transform, "many", None)
            if many is not None:
                values = many([as_mapping(row.number, row.value) for row in rows])
                return [Row(row.number, value) for row, value in zip(rows, values, strict=True)]
        except Exception:  # which row it was shows when they are taken one by one
            pass
        return [self.finish(row) for row in rows]

    def read_many(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows, read at once (datasets, tfds and array_record have `__getitems__`), or one by one."""
        unread = [row.number for row in rows if row.value is UNREAD]
        many = getattr(self.source, "__getitems__", None)
        values = iter(many(unread) if many is not None else map(self.read, unread)) if unread else iter(())
        return [Row(row.number, next(values)) if row.value is UNREAD else row for row in rows]

    def finish(self, row: Row) -> Row:
        """Read and transform one row."""
        value = self.read(row.number) if row.value is UNREAD else row.value
        if self.transform is None:
            return Row(row.number, as_mapping(row.number, value))
        try:
            changed = self.transform(value)
        except Exception as error:
            has = f"; its fields are {sorted(value)}" if isinstance(value, Mapping) else f"; it is {value!r:.80}"
            raise DataError(
                f"row {row.number} of the data could not be transformed: {type(error).__name__}: {error}{has}"
            ) from error
        return Row(row.number, as_mapping(row.number, changed))

    def read(self, number: int) -> Any:
        """One row of the source."""
        try:
            return self.source[number]
        except Exception as error:
            raise DataError(f"row {number} of the data could not be read: {type(error).__name__}: {error}") from error


def as_mapping(number: int, value: Any) -> Mapping[str, Any]:
    """A row's fields by name. Raises DataError for what has none."""
    if isinstance(value, Mapping) or hasattr(value, "keys"):
        return value
    found = "None: filter such rows out of the source" if value is None else f"{type(value).__name__}: {value!r:.80}"
    raise DataError(f"row {number} of the data must be a dict of fields by name, found {found}")


def collated(collate: Callable, rows: Sequence[Row], *draws: Any) -> dict[str, Any]:
    """Make a batch. Raises DataError that names the row of the source and the field."""
    try:
        return dict(collate([row.value for row in rows], *draws))
    except BadField as error:
        raise DataError(
            f"row {rows[error.place].number} of the data, field {error.field!r}: {error.problem}"
        ) from error
    except DataError:
        raise
    except Exception as error:
        numbers = [row.number for row in rows]
        shown = f"{numbers[:8]}{'...' if len(numbers) > 8 else ''}"
        fields = sorted(set().union(*(row.value for row in rows)))
        raise DataError(
            f"rows {shown} of the data could not be made a batch: {type(error).__name__}: {error}; they have {fields}"
        ) from error
