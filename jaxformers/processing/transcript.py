"""Whisper's outputs for pieces of a recording merged to one transcript, with times of phrases or of words."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxformers.processing.overlap import Heard, merge
from jaxformers.processing.whisper_languages import LANGUAGES
from jaxformers.processing.whisper_timestamps import FRAMES, single_ending
from jaxformers.processing.whisper_words import split_words

if TYPE_CHECKING:
    from jaxformers.processing.whisper_tokenizer import WhisperTokenizer

log = logging.getLogger(__name__)


def transcript(
    tokenizer: WhisperTokenizer,
    model_outputs: Iterable[Mapping[str, Any]],
    *,
    return_timestamps: bool | str | None = None,
    return_language: bool | None = None,
    time_precision: float = 0.02,
    segment_size: int = FRAMES,
) -> tuple[str, dict[str, Any]]:
    """Return the text and, with times or languages, `{"chunks": [{"text", "timestamp", "language"}]}`.

    An output holds `tokens` [1, T], with return_timestamps="word" also `token_timestamps` [1, T] in seconds, and for a
    piece of a longer recording `stride`: its length, and what it shares with its neighbours, in seconds.
    """
    writer = _Writer(tokenizer, return_timestamps, bool(return_language), time_precision, segment_size)
    for output in model_outputs:
        writer.read(output)
    return writer.finish()


@dataclass
class _Window:
    """How far one output is read: times run anew in every 30 seconds of a long recording."""

    tokens: list[int]
    times: list[float]
    first: float  # stamps before it lie in the left overlap
    last: int | None  # stamps from it on lie in the right overlap
    latest: float = 0.0
    before: float = 0.0
    offset: float = 0.0

    def time(self, i: int, zero: int, precision: float, size: int) -> float:
        """Return the seconds of the stamp at token i since the output's beginning."""
        stamp = float((self.tokens[i] - zero) * precision)
        if stamp < self.latest:
            if single_ending(self.tokens, i, zero):
                self.offset += precision * size
            else:
                self.latest = self.before
                self.offset += self.before
        self.before, self.latest = self.latest, stamp
        return (self.tokens[i] - zero) * precision


@dataclass
class _Writer:
    tokenizer: WhisperTokenizer
    stamps: bool | str | None
    languages: bool
    precision: float
    size: int
    chunks: list[dict[str, Any]] = field(default_factory=list)
    language: str | None = None
    offset: float = 0.0  # of the current output in the recording
    skip: bool = False  # the next stamp opens what the stamp in the overlap closed
    earlier: list[Heard] = field(default_factory=list)  # what outputs said of the phrase that is open
    current: Heard = field(default_factory=Heard)

    def __post_init__(self) -> None:
        convert = self.tokenizer.convert_tokens_to_ids
        self.zero = convert("<|notimestamps|>") + 1
        self.special = set(self.tokenizer.all_special_ids)
        self.chunk = self._chunk()

    def _chunk(self) -> dict[str, Any]:
        return {"language": self.language, "timestamp": [None, None], "text": ""}

    def read(self, output: Mapping[str, Any]) -> None:
        """Read one output of the model."""
        window, following = self._window(output)
        self.current = Heard()
        for i, token in enumerate(window.tokens):
            if token in self.special:
                self._special(token)
            elif token >= self.zero:
                self._stamp(window, i)
            else:
                self._word(window, i)
        self.offset += following
        if self.current.tokens:
            self.earlier.append(self.current)
        elif not any(heard.tokens for heard in self.earlier):
            self.chunk, self.earlier, self.current = self._chunk(), [], Heard()

    def _window(self, output: Mapping[str, Any]) -> tuple[_Window, float]:
        tokens = self.tokenizer.without_prompt(np.asarray(output["tokens"])[0].tolist())
        times = np.asarray(output["token_timestamps"])[0].tolist() if self.stamps == "word" else []
        window = _Window(tokens, times, first=self.zero, last=None)
        if "stride" not in output:
            return window, 0.0
        length, left, right = output["stride"]
        self.offset -= left
        if left:
            window.first = left / self.precision + self.zero
        if right:
            for token in reversed(tokens):
                if token < self.zero:
                    continue
                if window.last is not None and (token - self.zero) * self.precision < length - right:
                    break
                window.last = token
        return window, length - right

    def _special(self, token: int) -> None:
        language = LANGUAGES.get(self.tokenizer.decode([token])[2:-2])
        if language is None:
            return
        if self.language and language != self.language and not self.stamps:
            self.earlier.append(self.current)
            self._close()
        self.chunk["language"] = self.language = language

    def _stamp(self, window: _Window, i: int) -> None:
        token = window.tokens[i]
        time = window.time(i, self.zero, self.precision, self.size)
        time = round(time + self.offset + window.offset, 2)
        if window.last and token >= window.last:
            self.skip = True
        elif self.skip or self.earlier and token < window.first:
            self.skip = False
        elif self.chunk["timestamp"][0] is None:
            self.chunk["timestamp"][0] = time
        elif time != self.chunk["timestamp"][0]:  # a stamp said twice opens a phrase, it does not close it
            self.chunk["timestamp"][1] = time
            self.earlier.append(self.current)
            self._close()

    def _word(self, window: _Window, i: int) -> None:
        self.current.tokens.append(window.tokens[i])
        if self.stamps == "word":
            start = round((window.times[i - 1] if i else 0.0) + self.offset, 2)
            self.current.times.append((start, round(window.times[i] + self.offset, 2)))

    def _close(self) -> None:
        """Write what was heard of the open phrase, and open another."""
        heard = merge(self.earlier)
        self.chunk["text"] = self.tokenizer.decode(heard.tokens)
        if self.stamps == "word":
            self.chunk["words"] = self._timed_words(heard)
        self.chunks.append(self.chunk)
        self.earlier, self.current, self.chunk = [], Heard(), self._chunk()

    def _timed_words(self, heard: Heard) -> list[dict[str, Any]]:
        extra = {"language": self.language} if self.languages else {}
        return [
            {"text": word.text, "timestamp": (heard.times[word.places[0]][0], heard.times[word.places[-1]][1]), **extra}
            for word in split_words(self.tokenizer, heard.tokens, self.language)
        ]

    def finish(self) -> tuple[str, dict[str, Any]]:
        """Close the last phrase and return everything."""
        if self.earlier:
            if self.stamps:
                log.warning(
                    "the last phrase has no end: the audio may stop within a word, or the time stamps were not "
                    "kept in order when they were generated"
                )
            self._close()
        text = "".join(chunk["text"] for chunk in self.chunks)
        if not self.stamps and not self.languages:
            return text, {}
        if self.stamps == "word":
            return text, {"chunks": [word for chunk in self.chunks for word in chunk["words"]]}
        return text, {"chunks": [self._shown(chunk) for chunk in self.chunks]}

    def _shown(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        shown = {"language": chunk["language"]} if self.languages else {}
        if self.stamps:
            shown["timestamp"] = tuple(chunk["timestamp"])
        return {**shown, "text": chunk["text"]}
