"""Stages: where rows come from in an epoch. Each gives some rows at a time, says where it stands and goes back there.

A state is a small JSON-able dict. A stage that looks ahead keeps the state of the stage before it at the beginning of
what it looked at, reads that again and skips what was given out: exact, and nothing of the data is in the state.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jaxformers.core.errors import DataError
from jaxformers.training.data.order import Order
from jaxformers.training.data.rows import Row
from jaxformers.training.data.sources import Stream

State = dict[str, Any]


class Stage(Protocol):
    """A source of rows within an epoch."""

    def begin(self, epoch: int, state: State | None = None) -> None:
        """Start an epoch, or go on where `state` stood in it."""

    def take(self, count: int) -> list[Row]:
        """The next `count` rows; fewer only at the epoch's end."""
        ...

    def state(self) -> State:
        """Where the next row stands."""
        ...


class Indexed:
    """Numbers of the rows of an indexed source, in the epoch's order; they are read later, by whoever needs them."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.numbers: Any = ()
        self.epoch: int | None = None
        self.at = 0

    def begin(self, epoch: int, state: State | None = None) -> None:
        if epoch != self.epoch:
            self.numbers, self.epoch = self.order(epoch), epoch
        self.at = state["read"] if state else 0

    def take(self, count: int) -> list[Row]:
        numbers = self.numbers[self.at : self.at + count]
        self.at += len(numbers)
        return [Row(int(number)) for number in numbers]

    def state(self) -> State:
        return {"read": self.at}


class Batched:
    """Whole batches of row numbers, as a batch sampler gives them for an epoch; each `take` is one."""

    def __init__(self, sampler: Callable[[int], Sequence[Any]], rows: int) -> None:
        self.sampler, self.rows = sampler, rows
        self.batches: Sequence[Any] = ()
        self.epoch: int | None = None
        self.at = 0

    def begin(self, epoch: int, state: State | None = None) -> None:
        if epoch != self.epoch:
            self.batches, self.epoch = list(self.sampler(epoch)), epoch
        self.at = state["batches"] if state else 0

    def take(self, count: int) -> list[Row]:
        if self.at == len(self.batches):
            return []
        numbers = [int(number) for number in self.batches[self.at]]
        if not numbers or not 0 <= min(numbers) <= max(numbers) < self.rows:
            raise ValueError(f"batch {self.at} of the batch sampler is {numbers}; the source has {self.rows} rows")
        self.at += 1
        return [Row(number) for number in numbers]

    def state(self) -> State:
        return {"batches": self.at}


class Streamed:
    """Rows of a stream as they come, numbered from 0 in every epoch."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.rows: Any = iter(())
        self.at = 0

    def begin(self, epoch: int, state: State | None = None) -> None:
        inner = state.get("inner") if state else None
        keeper = self.stream.keeper
        if inner is not None and keeper is not None:
            keeper.load_state_dict(inner)
        self.rows, self.at = self.stream.begin(epoch), 0
        if inner is not None and keeper is None:
            self.rows.set_state(inner["bytes"].encode() if set(inner) == {"bytes"} else inner)
        if state is None:
            return
        if inner is None:
            self.skip(state["read"])
        self.at = state["read"]

    def skip(self, count: int) -> None:
        """Read over rows that were given out before. Raises DataError when there are not so many any more."""
        for number in range(count):
            if next(self.rows, self) is self:
                raise DataError(f"the stream ended after {number} rows, {count} had been read of it: it has changed")

    def take(self, count: int) -> list[Row]:
        out = []
        while len(out) < count:
            try:
                out.append(Row(self.at, next(self.rows)))
            except StopIteration:
                break
            except Exception as error:
                raise DataError(
                    f"row {self.at} of the stream could not be read: {type(error).__name__}: {error}"
                ) from error
            self.at += 1
        return out

    def state(self) -> State:
        if self.at == 0:  # a data set that has not begun may still tell the end of its last epoch
            return {"read": 0}
        if self.stream.keeper is not None:
            return {"read": self.at, "inner": self.stream.keeper.state_dict()}
        if not hasattr(self.rows, "get_state"):
            return {"read": self.at}
        inner = self.rows.get_state()
        return {"read": self.at, "inner": {"bytes": inner.decode()} if isinstance(inner, bytes) else inner}


class Windowed:
    """Reads `size` rows at a time and gives out what `arrange(rows, epoch, window)` makes of them: shuffled, packed."""

    def __init__(self, rows: Stage, size: int, arrange: Callable[[list[Row], int, int], Sequence[Row]]) -> None:
        if size < 1:
            raise ValueError(f"a window must hold at least one row, found {size}")
        self.rows, self.size, self.arrange = rows, size, arrange
        self.epoch = self.next = self.used = 0
        self.held: Sequence[Row] = ()
        self.before: State = {}

    def begin(self, epoch: int, state: State | None = None) -> None:
        self.epoch, self.next, self.used, self.held = epoch, 0, 0, ()
        self.rows.begin(epoch, state["rows"] if state else None)
        if state:
            self.next = state["window"]
        if state and state["used"]:
            self.look()
            self.used = state["used"]

    def look(self) -> bool:
        """Read and arrange the next window; whether there was anything to read."""
        self.before, self.used = self.rows.state(), 0
        rows = self.rows.take(self.size)
        self.held = self.arrange(rows, self.epoch, self.next) if rows else ()
        self.next += 1 if rows else 0
        return bool(rows)

    def take(self, count: int) -> list[Row]:
        out: list[Row] = []
        while len(out) < count:
            if self.used == len(self.held) and not self.look():
                break
            some = self.held[self.used : self.used + count - len(out)]
            self.used += len(some)
            out.extend(some)
        return out

    def state(self) -> State:
        if self.used == len(self.held):  # between two windows nothing of the last one is needed any more
            return {"window": self.next, "used": 0, "rows": self.rows.state()}
        return {"window": self.next - 1, "used": self.used, "rows": self.before}


class Transformed:
    """Rows of another stage, read and transformed here: for stages that must see what is in them."""

    def __init__(self, rows: Stage, read: Callable[[Sequence[Row]], list[Row]]) -> None:
        self.rows, self.read = rows, read

    def begin(self, epoch: int, state: State | None = None) -> None:
        self.rows.begin(epoch, state)

    def take(self, count: int) -> list[Row]:
        return self.read(self.rows.take(count))

    def state(self) -> State:
        return self.rows.state()
