"""Sources: what rows come from. Anything indexable, anything iterable, columns, or a function that opens a stream."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxformers.core.errors import DataError


class Columns:
    """A mapping of equally long columns, read as rows."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the columns have different lengths: {lengths}; give each row a value in every column")
        self.columns = dict(columns)
        self.length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


class ArrowRows:
    """A table of pyarrow, read as rows of Python values."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.table.slice(index, 1).to_pylist()[0]


class Stream:
    """Rows that come one after another. `open` starts an epoch; the place is kept by the iterator where it can.

    Iterators with get_state/set_state (grain) or data sets with state_dict/load_state_dict (datasets) go back to a
    place at once; of all others, the rows before it are read again.
    """

    def __init__(self, open: Callable[[int], Iterator], keeper: Any = None) -> None:
        self.open = open
        self.keeper = keeper  # the object that has state_dict, where it is not the iterator

    def begin(self, epoch: int) -> Iterator:
        """Start an epoch."""
        return self.open(epoch)


def as_source(given: Any) -> Any:
    """An indexed source (len and [number]) or a Stream. Raises TypeError for what is neither."""
    if isinstance(given, Stream):
        return given
    if isinstance(given, Mapping):
        return Columns(given)
    if isinstance(given, (str, bytes)):
        raise TypeError(f"a data set must be rows, found the text {given[:80]!r}; read files with read_rows(path)")
    library = type(given).__module__.split(".")[0]
    if library == "grain":
        return grain_stream(given)
    if library == "pyarrow":
        return ArrowRows(given)
    if hasattr(given, "iloc") and hasattr(given, "columns"):  # a table of pandas, whose [] takes names
        return Columns({str(name): given[name].to_numpy() for name in given.columns})
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return given
    if isinstance(given, Iterator):
        return Stream(Once(given))
    if isinstance(given, Iterable):
        return Stream(Again(given), given if remembers(given) else None)
    if callable(given):
        return Stream(Called(given))
    raise TypeError(
        f"a data set must be indexable, iterable, a mapping of columns or a function that returns an iterable; "
        f"found {type(given).__name__}"
    )


def remembers(rows: Any) -> bool:
    """Whether a data set's own state brings back every row: that of `datasets` forgets what a shuffle buffer held."""
    if not hasattr(rows, "load_state_dict") or getattr(rows, "_shuffling", None) is not None:
        return False
    parts = [getattr(rows, "_ex_iterable", None)]
    while parts:
        part = parts.pop()
        if type(part).__name__.startswith("BufferShuffled"):
            return False
        inner = [getattr(part, "ex_iterable", None), *(getattr(part, "ex_iterables", None) or ())]
        parts += [one for one in inner if one is not None]
    return True


def grain_stream(given: Any) -> Stream:
    """grain's MapDataset, IterDataset or DataLoader, whose iterators keep their state."""
    if hasattr(given, "to_iter_dataset"):  # a MapDataset: it may shuffle, repeat and leave rows out
        given = given.to_iter_dataset()
    return Stream(Once(given) if isinstance(given, Iterator) else Again(given))


class Again:
    """Iterate the same object in every epoch, and tell it the epoch where it wants to know (datasets, torch)."""

    def __init__(self, rows: Iterable) -> None:
        self.rows = rows

    def __call__(self, epoch: int) -> Iterator:
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)
        return iter(self.rows)


class Called:
    """Call a function that opens the rows anew."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __call__(self, epoch: int) -> Iterator:
        return iter(self.function())


class Once:
    """An iterator, which can be read once."""

    def __init__(self, rows: Iterator) -> None:
        self.rows: Iterator | None = rows

    def __call__(self, epoch: int) -> Iterator:
        rows, self.rows = self.rows, None
        if rows is None:
            raise DataError(
                "this iterator has been read and cannot be opened again: give something that can be iterated twice, "
                "or a function that returns a new iterator"
            )
        return rows
