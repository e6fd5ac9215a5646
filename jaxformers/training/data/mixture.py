"""Mixtures: rows of several sources in given shares, spread evenly, the same ones every time."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxformers.training.data.sources import Stream, as_source
from jaxformers.training.data.stages import State, Streamed

Stop = Literal["first", "all"]


def mix(sources: Sequence[Any], weights: Sequence[float] | None = None, stop: Stop = "all") -> Any:
    """One source of several, equal parts by default: indexed if all of them are, else a stream.

    An epoch ends with the "first" source that has no more rows, or when "all" were read, shorter ones several times.
    """
    made = [as_source(source) for source in sources]
    weights = [1.0] * len(made) if weights is None else list(weights)
    if len(weights) != len(made) or not made or min(weights) <= 0:
        raise ValueError(f"{len(made)} sources have the weights {weights}; give each a positive one")
    if stop not in ("first", "all"):
        raise ValueError(f"stop is {stop!r}; expected 'first' or 'all'")
    shares = np.asarray(weights, np.float64) / sum(weights)
    if not any(isinstance(source, Stream) for source in made):
        return MixedRows(made, shares, stop)
    return Stream(MixedStreams([as_stream(source) for source in made], shares, stop))


def as_stream(source: Any) -> Stream:
    """An indexed source read from its first row to its last."""
    if isinstance(source, Stream):
        return source
    return Stream(lambda epoch: (source[i] for i in range(len(source))))


class MixedRows:
    """Rows of indexed sources by number: the row that is furthest behind its share comes next."""

    def __init__(self, sources: Sequence[Any], shares: np.ndarray, stop: Stop) -> None:
        self.sources = list(sources)
        sizes = np.array([len(source) for source in sources])
        if not sizes.all():
            raise ValueError(f"the sources have {sizes.tolist()} rows; one without any cannot be mixed in")
        total = (sizes / shares).min() if stop == "first" else (sizes / shares).max()
        counts = np.maximum(np.round(total * shares + (-1e-9 if stop == "first" else 1e-9)).astype(int), 1)
        counts = np.minimum(counts, sizes) if stop == "first" else np.maximum(counts, sizes)
        owner = np.repeat(np.arange(len(sizes)), counts)
        number = np.concatenate([np.arange(count) for count in counts])
        order = np.argsort((number + 0.5) / shares[owner], kind="stable")
        self.owner, self.number = owner[order], (number % sizes[owner])[order]

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, index: int) -> Any:
        return self.sources[self.owner[index]][int(self.number[index])]


class MixedStreams:
    """Opens a mixture of streams, as a stream does at the beginning of an epoch."""

    def __init__(self, streams: Sequence[Stream], shares: np.ndarray, stop: Stop) -> None:
        self.streams, self.shares, self.stop = streams, shares, stop

    def __call__(self, epoch: int) -> "Mixing":
        return Mixing(self, epoch)


class Mixing:
    """An epoch of mixed streams. It keeps its place: that of each stream, and how often each has begun."""

    def __init__(self, mixed: MixedStreams, epoch: int) -> None:
        self.mixed, self.epoch = mixed, epoch
        self.parts = [Streamed(stream) for stream in mixed.streams]
        self.begun = [0] * len(self.parts)
        self.given = np.zeros(len(self.parts), int)
        self.open = set(range(len(self.parts)))  # which were never read to their end
        self.fresh = True

    def __iter__(self) -> "Mixing":
        return self

    def number(self, part: int) -> int:
        """The epoch that a stream is told: one that begins again gets one of its own."""
        return self.epoch + self.begun[part]

    def start(self) -> None:
        """Begin all streams, unless a state has done so."""
        if self.fresh:
            for i, part in enumerate(self.parts):
                part.begin(self.number(i))
        self.fresh = False

    def __next__(self) -> Any:
        self.start()
        part = int(np.argmin((self.given + 0.5) / self.mixed.shares))
        rows = self.parts[part].take(1)
        if not rows:
            self.open.discard(part)
            if self.mixed.stop == "first" or not self.open:
                raise StopIteration
            self.begun[part] += 1
            self.parts[part].begin(self.number(part))
            rows = self.parts[part].take(1)
            if not rows:
                raise ValueError(f"source {part} of the mixture has no rows")
        self.given[part] += 1
        return rows[0].value

    def get_state(self) -> State:
        """Where every stream stands."""
        self.start()
        parts = [part.state() for part in self.parts]
        return {"parts": parts, "begun": self.begun[:], "given": self.given.tolist(), "open": sorted(self.open)}

    def set_state(self, state: State) -> None:
        """Go where every stream stood."""
        self.begun, self.given, self.open = list(state["begun"]), np.array(state["given"]), set(state["open"])
        for i, (part, where) in enumerate(zip(self.parts, state["parts"], strict=True)):
            part.begin(self.number(i), where)
        self.fresh = False
