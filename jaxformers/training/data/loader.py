"""DataLoader: from any source of rows to batches of arrays, in an order that a saved state continues exactly."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import numpy as np

from jaxformers.core.errors import DataError
from jaxformers.training.data import position
from jaxformers.training.data.checks import check, takes_draws
from jaxformers.training.data.collate import collate_arrays
from jaxformers.training.data.draws import Draws
from jaxformers.training.data.fill import fill_rows
from jaxformers.training.data.order import Chosen, InOrder, LengthGrouped, Order, Shuffled
from jaxformers.training.data.prefetch import Prefetch
from jaxformers.training.data.rows import Reader, Row, collated
from jaxformers.training.data.sources import Stream, as_source
from jaxformers.training.data.stages import Batched, Indexed, Stage, State, Streamed, Transformed, Windowed

Last = Literal["drop", "keep", "fill"]


class DataLoader:
    """Batches of rows, the same for the same seed; `state()` says where they stand and `restore(state)` goes there.

    source: anything indexable or iterable of dicts, columns, a grain pipeline, or a function that opens a stream.
    batch_size: rows of all processes together; None when the source gives batches, which are passed on as they are.
    collate: rows (and `draws`, where it takes them) -> arrays; by default the rows' fields are stacked.
    transform: a function of one row, such as a Tokenize; `threads` run it side by side.
    shuffle: by seed and epoch; a stream is shuffled within windows of `window` rows.
    sampler: row numbers, or a function of the epoch that returns them; batch_sampler: one that returns batches of them,
    such as BucketBatches, in the place of batch_size.
    group_by_length: batches of rows of like length, by `lengths` or by the rows' input_ids; indexed sources only.
    pack: puts several documents in a row (FirstFit, ConcatSplit).
    last: what becomes of rows that do not fill the last batch: "drop", "keep" (a smaller batch) or "fill" (with rows
    whose labels do not count).
    epochs: None goes on for ever. process_index, process_count: which part of every batch is made here.
    split: "rows" when every process is given the whole source, "source" when it is given its own part of it.
    place: applied to every batch ahead of time, such as to_device. prefetch: how many batches are made ahead.
    """

    def __init__(
        self,
        source: Any,
        *,
        batch_size: int | None,
        collate: Callable[..., dict[str, Any]] = collate_arrays,
        transform: Callable | None = None,
        shuffle: bool = False,
        seed: int = 0,
        sampler: Any = None,
        batch_sampler: Callable[[int], Any] | None = None,
        group_by_length: bool = False,
        lengths: Any = None,
        window: int = 10_000,
        pack: Any = None,
        last: Last = "drop",
        epochs: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
        split: Literal["rows", "source"] = "rows",
        threads: int = 0,
        prefetch: int = 2,
        place: Callable | None = None,
    ) -> None:
        self.source = as_source(source)
        self.batch_size, self.collate, self.transform = batch_size, collate, transform
        self.shuffle, self.seed, self.sampler, self.batch_sampler = shuffle, seed, sampler, batch_sampler
        self.group_by_length, self.lengths, self.window, self.pack = group_by_length, lengths, window, pack
        self.last, self.epochs, self.prefetch, self.place = last, epochs, prefetch, place
        self.process_index, self.process_count, self.split = process_index, process_count, split
        check(self)
        self.indexed = not isinstance(self.source, Stream)
        self.takes_draws = takes_draws(collate)
        self.read = Reader(self.source, transform, threads)
        self.rows = self.make_stage()
        self.running: Any = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.reset()

    @property
    def local_rows(self) -> int:
        """Rows of a batch that are made by this process."""
        return (self.batch_size or 0) // self.process_count

    @property
    def batches_per_epoch(self) -> int | None:
        """Batches of an epoch; None when that is not known before it has been read."""
        if not self.indexed or self.pack is not None:
            return None
        if self.batch_sampler is not None:
            return len(self.batch_sampler(0))
        rows = len(self.source) if self.sampler is None else len(self.order()(0))
        whole, rest = divmod(rows, self.batch_size)
        return whole + (1 if rest and self.last != "drop" else 0)

    def __len__(self) -> int:
        each = self.batches_per_epoch
        if each is None or self.epochs is None:
            raise TypeError("this loader's number of batches is not known: see batches_per_epoch and epochs")
        return each * self.epochs

    def reset(self) -> None:
        """Go back to the beginning."""
        self.close()
        self.position: State = position.begin()
        self.ended = False

    def state(self) -> State:
        """Where the next batch stands after those delivered, JSON-able. `row`: real rows of the epoch so far."""
        return position.written(self.position, self.seed, self.owner)

    def restore(self, state: State) -> None:
        """Go where a state stands. Raises DataError for a state of another seed, version or process."""
        place = position.read(state, self.seed, self.owner)
        self.close()
        self.position = place
        self.ended = False

    def close(self) -> None:
        """Stop making batches ahead."""
        running, self.running = self.running, None
        if running is not None and hasattr(running, "close"):
            running.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches from where the loader stands; after the last one it stands at the beginning."""
        if self.ended:
            self.reset()
        self.close()
        made = self.made(dict(self.position))
        self.running = running = Prefetch(made, self.prefetch) if self.prefetch else made
        try:
            for batch, after in running:
                self.position = after
                yield batch
            self.ended = self.running is running  # and not closed by a restore in between
        finally:
            running.close()

    def made(self, start: State) -> Iterator[tuple[dict[str, Any], State]]:
        """Batches, each with the position after it."""
        epoch, batch, row, state = (start[name] for name in position.FIELDS)
        while self.epochs is None or epoch < self.epochs:
            self.rows.begin(epoch, state)
            begun = batch
            while rows := self.rows.take(self.batch_size // self.readers if self.batch_size else 1):
                made, count = self.passed(rows) if self.passes else self.batch(rows, epoch, row)
                if made is None:
                    break
                batch, row = batch + 1, row + count
                yield made, {"epoch": epoch, "batch": batch, "row": row, "rows": self.rows.state()}
            if batch == begun == 0:
                raise DataError(f"the data holds no batch of {self.batch_size} rows: give more rows, or another `last`")
            epoch, batch, row, state = epoch + 1, 0, 0, None

    @property
    def owner(self) -> tuple[int, int] | None:
        """Which process of how many a state belongs to; None where all have the same."""
        return (self.process_index, self.process_count) if self.readers > 1 else None

    @property
    def readers(self) -> int:
        """How many processes read rows of their own."""
        return self.process_count if self.split == "source" else 1

    @property
    def passes(self) -> bool:
        """Whether the source makes the batches."""
        return self.batch_size is None and self.batch_sampler is None

    def passed(self, rows: list[Row]) -> tuple[dict[str, Any], int]:
        """A batch that the source made, and how many rows all processes have of it."""
        batch = dict(self.read(rows)[0].value)
        rows_here = next((len(value) for value in batch.values() if np.ndim(value)), 1)
        return self.placed(batch), rows_here * self.readers

    def batch(self, rows: list[Row], epoch: int, first: int) -> tuple[dict[str, Any] | None, int]:
        """This process's part of a batch, None when its rows are too few and dropped, and how many rows there are."""
        if len(rows) < (self.batch_size or 0) // self.readers and self.last == "drop":
            return None, 0
        share = self.share(len(rows))
        chosen = [min(i, len(rows) - 1) for i in share]  # beyond the end the last row again, made not to count below
        own = [rows[i] for i in chosen]
        own = own if self.pack is not None else self.read(own)
        batch = collated(self.collate, own, *self.draws(epoch, [first + i for i in chosen]))
        self.check_shapes(batch)
        if share.stop > len(rows):
            batch = fill_rows(batch, max(len(rows) - share.start, 0))
        return self.placed(batch), len(rows)

    def check_shapes(self, batch: dict[str, Any]) -> None:
        """Raise DataError when batches differ in shape and other processes, with other rows, cannot know how."""
        shapes = {name: np.shape(value)[1:] for name, value in batch.items()}
        self.shapes = self.shapes or shapes
        if self.process_count > 1 and shapes != self.shapes and self.batch_sampler is None:
            raise DataError(
                f"batches of several processes need one shape for all; found {self.shapes}, then {shapes}: "
                "collate with padding='max_length' or a single bucket, or pack the rows"
            )

    def draws(self, epoch: int, places: list[int]) -> tuple[Draws, ...]:
        """What a random collator draws from; nothing for the others."""
        if not self.takes_draws:
            return ()
        if self.readers > 1:  # places count each process's own rows: make them differ
            places = [place * self.process_count + self.process_index for place in places]
        return (Draws(self.seed, epoch, places),)

    def placed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch where `place` puts it."""
        return batch if self.place is None else self.place(batch)

    def share(self, count: int) -> range:
        """Which of a batch's `count` rows this process makes; beyond `count` there are fillers."""
        if self.split == "source":
            return range(count if self.last == "keep" else self.local_rows)
        if self.batch_sampler is not None or self.last == "keep" and count < (self.batch_size or 0):
            each, rest = divmod(count, self.process_count)
            if rest:
                raise DataError(
                    f"a batch has {count} rows for {self.process_count} processes: use last='fill' or 'drop', or "
                    "a batch sampler with a multiple of that number"
                )
        else:
            each = self.local_rows
        return range(self.process_index * each, (self.process_index + 1) * each)

    def make_stage(self) -> Stage:
        """The stages that rows go through before they become batches."""
        shuffle = partial(shuffled_window, seed=self.seed)
        if self.batch_sampler is not None:
            return Batched(self.batch_sampler, len(self.source))
        rows: Stage = Indexed(self.order()) if self.indexed else Streamed(self.source)
        if self.shuffle and not self.indexed:
            rows = Windowed(rows, self.window, shuffle)
        if self.pack is not None:
            rows = self.pack.stage(Transformed(rows, self.read))
        return rows

    def order(self) -> Order:
        """The order in which an epoch reads an indexed source."""
        count = len(self.source)
        if self.sampler is not None:
            return Chosen(self.sampler, count)
        if self.group_by_length:
            lengths = self.lengths if self.lengths is not None else self.measure()
            return LengthGrouped(lengths, self.batch_size or 1, self.seed)
        return Shuffled(count, self.seed) if self.shuffle else InOrder(count)

    def measure(self) -> np.ndarray:
        """The length of every row's input_ids, by reading them all once."""
        found = []
        for number in range(len(self.source)):
            (row,) = self.read([Row(number)])
            if "input_ids" not in row.value and "length" not in row.value:
                raise DataError(
                    f"grouping by length needs lengths=, or rows with input_ids or length; row {number} has "
                    f"{sorted(row.value)}"
                )
            found.append(row.value["length"] if "length" in row.value else len(row.value["input_ids"]))
        return np.asarray(found)


def shuffled_window(rows: list[Row], epoch: int, window: int, *, seed: int) -> list[Row]:
    """A window's rows in an order of its own."""
    order = np.random.default_rng((seed, epoch, window)).permutation(len(rows))
    return [rows[i] for i in order]
