"""Streams: the same tokens as without, text in the pieces that transformers prints, no character cut."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import jaxformers as jf
from jaxformers.generation import stream, stream_text
from tests.hub import tiny

IDS = np.random.RandomState(0).randint(3, 96, (1, 6))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> jf.Model:
    """A tiny llama."""
    folder = tmp_path_factory.mktemp("llama")
    tiny.llama(folder, num_hidden_layers=2)
    return jf.AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Every byte is a token, and some pieces of words are."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({**{x: n for n, x in enumerate(letters)}, "Ġthe": 256, "Ċ": 257}, []))
    inner.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner)


def test_tokens_one_by_one(model: jf.Model) -> None:
    want = np.asarray(model.generate(IDS, max_new_tokens=8))[:, 6:]
    got = list(stream(model, IDS, max_new_tokens=8))
    assert all(column.shape == (1,) for column in got)
    np.testing.assert_array_equal(np.stack(got, axis=1), want)
    with pytest.raises(ValueError, match="write tokens in order"):
        next(stream(model, IDS, max_new_tokens=8, num_beams=2))


def test_asynchronous_streamer(model: jf.Model, tokenizer: Any) -> None:
    """Pieces of another thread's text, and a TimeoutError when none come."""
    want = tokenizer.decode(np.asarray(model.generate(IDS, max_new_tokens=8))[0, 6:])

    async def read() -> str:
        streamer = jf.AsyncTextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        options = {"max_new_tokens": 8, "streamer": streamer}
        writing = asyncio.create_task(asyncio.to_thread(model.generate, IDS, **options))
        text = "".join([piece async for piece in streamer])
        await writing
        streamer.timeout = 0.01
        with pytest.raises(TimeoutError):
            await anext(streamer)
        return text

    assert asyncio.run(read()) == want


def test_streamers(model: jf.Model, tokenizer: Any, capsys: pytest.CaptureFixture) -> None:
    want = tokenizer.decode(np.asarray(model.generate(IDS, max_new_tokens=8))[0])
    out = model.generate(IDS, max_new_tokens=8, streamer=jf.TextStreamer(tokenizer))
    assert capsys.readouterr().out == want + "\n"
    streamer = jf.TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(target=model.generate, args=(IDS,), kwargs={"max_new_tokens": 8, "streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(np.asarray(out)[0, 6:])
    assert "".join(stream_text(model, tokenizer, IDS, max_new_tokens=8)) == text
    with pytest.raises(ValueError, match="2 rows"):
        model.generate(np.repeat(IDS, 2, 0), max_new_tokens=2, streamer=jf.TextStreamer(tokenizer))


def test_an_error_ends_the_stream(model: jf.Model, tokenizer: Any) -> None:
    """The thread that reads must not wait for ever."""
    streamer = jf.TextIteratorStreamer(tokenizer, timeout=60)

    def broken(ids: np.ndarray, scores: Any) -> bool:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        model.generate(IDS, max_new_tokens=4, streamer=streamer, stopping_criteria=broken)
    assert isinstance("".join(streamer), str)


class Theirs(transformers.TextStreamer):
    """Keeps the pieces."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.shown = [*getattr(self, "shown", []), text]


class Ours(jf.TextStreamer):
    """Keeps the pieces."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.shown = [*getattr(self, "shown", []), text]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(alphabet="ab \n你好é😀", max_size=12))
def test_pieces_are_transformers_pieces(text: str, tokenizer: Any) -> None:
    """Token by token, the bytes of each character apart."""
    table = tokenizer.get_vocab()
    alphabet = byte_alphabet()
    tokens = [table[alphabet[byte]] for byte in text.encode()]
    a, b = Theirs(tokenizer), Ours(tokenizer)
    for token in tokens:
        a.put(torch.tensor([token]))
        b.put(np.array([token]))
    a.end()
    b.end()
    assert a.shown == b.shown and "".join(b.shown) == text


def byte_alphabet() -> dict[int, str]:
    """The character that stands for each byte in byte-level vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + n) for n, b in enumerate(rest)}}
