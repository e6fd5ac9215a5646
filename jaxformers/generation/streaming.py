"""Streaming: new tokens or text as they are written, to a streamer, an iterator or another thread."""

import asyncio
from collections.abc import Iterator
from queue import Queue
from typing import Any, Protocol

import numpy as np

from jaxformers.core.errors import ConfigError

# Blocks of Unicode whose characters are words by themselves, so that no space need be waited for.
IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class Streamer(Protocol):
    """What `generate(streamer=)` takes: it is given the prompt [B,P], then each new token [B], then told the end."""

    def put(self, value: np.ndarray, /) -> None: ...

    def end(self) -> None: ...


class Pieces:
    """Text of one row in whole words: up to the last space, line or ideograph, so that no character is cut."""

    def __init__(self, tokenizer: Any, **decoding: Any) -> None:
        self.tokenizer, self.decoding = tokenizer, decoding
        self.tokens: list[int] = []
        self.given = 0  # characters of the tokens' text that were handed out

    def text(self) -> str:
        """The text of the tokens that are kept."""
        return self.tokenizer.decode(self.tokens, **self.decoding)

    def add(self, tokens: np.ndarray) -> str:
        """Take more tokens; returns the text that will not change any more."""
        self.tokens += [int(token) for token in tokens]
        text = self.text()
        if text.endswith("\n"):
            piece, self.tokens, self.given = text[self.given :], [], 0
            return piece
        stop = len(text) if text and is_ideograph(text[-1]) else text.rfind(" ") + 1
        piece = text[self.given : stop]
        self.given += len(piece)
        return piece

    def rest(self) -> str:
        """All that was held back; begins anew."""
        piece = self.text()[self.given :] if self.tokens else ""
        self.tokens, self.given = [], 0
        return piece


def is_ideograph(character: str) -> bool:
    """Whether a character is one of the unified ideographs of Chinese, Japanese and Korean."""
    return any(first <= ord(character) <= last for first, last in IDEOGRAPHS)


class TextStreamer:
    """Prints the text of one row as it is written. `decoding` goes to the tokenizer's decode."""

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decoding: Any) -> None:
        self.tokenizer, self.skip_prompt = tokenizer, skip_prompt
        self.pieces = Pieces(tokenizer, **decoding)
        self.at_prompt = True

    def put(self, value: np.ndarray) -> None:
        """Take the prompt [1,P], later tokens [1]. Raises ValueError for more than one row."""
        value = np.asarray(value)
        if value.ndim > 1 and len(value) > 1 or not self.at_prompt and value.ndim == 1 and len(value) > 1:
            raise ValueError(f"{type(self).__name__} writes one text; the batch has {len(value)} rows")
        skip, self.at_prompt = self.skip_prompt and self.at_prompt, False
        if not skip:
            self.on_finalized_text(self.pieces.add(value.reshape(-1)))

    def end(self) -> None:
        """Hand out what was held back."""
        self.at_prompt = True
        self.on_finalized_text(self.pieces.rest(), stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print text, and a new line at the end. Override it to do something else with the text."""
        print(text, flush=True, end=None if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """An iterator over the text, for the thread that does not generate. timeout: seconds to wait for the next piece."""

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decoding: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decoding)
        self.queue: Queue[str | None] = Queue()
        self.timeout = timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put text into the queue, and None at the end."""
        self.queue.put(text)
        if stream_end:
            self.queue.put(None)

    def __iter__(self) -> "TextIteratorStreamer":
        return self

    def __next__(self) -> str:
        text = self.queue.get(timeout=self.timeout)
        if text is None:
            raise StopIteration
        return text


class AsyncTextIteratorStreamer(TextStreamer):
    """An asynchronous iterator over the text; make it in the coroutine that reads it, generate in another thread.

    timeout: seconds to wait for the next piece, after which TimeoutError is raised.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decoding: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decoding)
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.timeout = timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put text into the queue, and None at the end, from whichever thread."""
        for piece in (text, None) if stream_end else (text,):
            self.loop.call_soon_threadsafe(self.queue.put_nowait, piece)

    def __aiter__(self) -> "AsyncTextIteratorStreamer":
        return self

    async def __anext__(self) -> str:
        async with asyncio.timeout(self.timeout):
            text = await self.queue.get()
        if text is None:
            raise StopAsyncIteration
        return text


def stream(model: Any, inputs: Any = None, **kwargs: Any) -> Iterator[np.ndarray]:
    """New tokens [B] one after another, as `model.generate` with the same arguments would write them."""
    from jaxformers.generation.asking import read_request
    from jaxformers.generation.generate import mode_name
    from jaxformers.generation.record import Recording
    from jaxformers.generation.sample import chunks
    from jaxformers.generation.stopping import Ends

    request = read_request(model, inputs, **kwargs)
    mode = mode_name(request.config, request.options)
    if mode not in ("greedy_search", "sample"):
        raise ConfigError(f"only greedy search and sampling write tokens in order; the config asks for {mode}")
    request = request.replace(streamer=request.streamer or Silent())
    for _, columns in chunks(request, Ends.of(request), Recording()):
        yield from columns


class Silent:
    """A streamer that does nothing: with one, the program stops at every token."""

    def put(self, value: np.ndarray) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


def stream_text(model: Any, tokenizer: Any, inputs: Any = None, **kwargs: Any) -> Iterator[str]:
    """The new text of one row, a few characters at a time and none of them cut; special tokens are left out."""
    pieces = Pieces(tokenizer, skip_special_tokens=True)
    for column in stream(model, inputs, tokenizer=tokenizer, **kwargs):
        if len(column) > 1:
            raise ValueError(f"stream_text writes one text; the batch has {len(column)} rows. Use stream")
        if piece := pieces.add(column):
            yield piece
    if piece := pieces.rest():
        yield piece
