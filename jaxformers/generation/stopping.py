"""Stopping rules that need the host: strings, time, and the caller's own; the end tokens are in the program."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.core.errors import ConfigError

# (ids Int [B,n], scores or None) -> Bool [B], or one bool for all rows: which rows are finished.
Criterion = Callable[[np.ndarray, Any], Any]


@dataclass(frozen=True)
class StopStrings:
    """A row is finished when its last token completes one of the strings."""

    strings: tuple[str, ...]
    tokenizer: Any

    def __call__(self, ids: np.ndarray, scores: Any = None) -> np.ndarray:
        return np.asarray([self.completed(row) for row in ids])

    def completed(self, row: np.ndarray) -> bool:
        """Whether one of the strings ends in the last token's text."""
        # A token may stand for a byte only, and a string of n characters has at most 4 n of them.
        reach = max(4 * len(s) for s in self.strings) + 8
        tokens = [int(t) for t in row[-reach:]]
        before, text = (
            self.tokenizer.decode(t, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for t in (tokens[:-1], tokens)
        )
        same = common(before, text)
        return any(text.find(s, max(same - len(s) + 1, 0)) >= 0 for s in self.strings)


def common(a: str, b: str) -> int:
    """How many characters two strings begin with in common."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def strings_of(given: str | Sequence[str] | None, tokenizer: Any) -> tuple[Criterion, ...]:
    """The rule of stop_strings. Raises ConfigError without a tokenizer, or for an empty string."""
    if given is None:
        return ()
    strings = (given,) if isinstance(given, str) else tuple(given)
    if tokenizer is None:
        raise ConfigError("stop_strings are found in the text: pass tokenizer= to generate as well")
    if not strings or not all(strings):
        raise ConfigError(f"stop_strings is {given!r}; expected strings that are not empty")
    return (StopStrings(strings, tokenizer),)


@dataclass
class Ends:
    """Where each row ends, found token by token from chunks that the program wrote.

    eos: tokens that end a text; pad: follows them, None where no token ends a text.
    """

    eos: tuple[int, ...]
    pad: int | None
    criteria: tuple[Criterion, ...] = ()
    deadline: float = float("inf")  # of time.monotonic()
    ids: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    done: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @classmethod
    def of(cls, request: Any) -> "Ends":
        """The rules of a request."""
        c = request.config
        given = (*strings_of(c.stop_strings, request.tokenizer), *request.criteria)
        deadline = float("inf") if c.max_time is None else time.monotonic() + c.max_time
        return cls(c.eos, c.pad if c.eos else None, given, deadline)

    def start(self, prompt: np.ndarray) -> None:
        """Begin with the prompt's tokens [B,P]."""
        self.ids, self.done = prompt, np.zeros(len(prompt), bool)

    def add(self, column: np.ndarray, scores: Any = None) -> np.ndarray:
        """Take one new token of each row, and say which rows are finished. Returns the tokens, padding after ends."""
        if self.pad is not None:
            column = np.where(self.done, self.pad, column)
        self.ids = np.concatenate([self.ids, column[:, None].astype(np.int32)], axis=1)
        self.done = self.done | np.isin(column, self.eos)
        for criterion in self.criteria:
            finished = np.asarray(criterion(self.ids, scores)).astype(bool)
            self.done = self.done | np.broadcast_to(finished, self.done.shape)
        return self.ids[:, -1]

    @property
    def watched(self) -> bool:
        """Whether the host must look while the program writes."""
        return bool(self.criteria) or self.deadline != float("inf")

    @property
    def over(self) -> bool:
        """Whether all rows are finished, or the time is."""
        return bool(self.done.all()) or time.monotonic() > self.deadline
