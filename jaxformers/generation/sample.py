"""Greedy search and sampling: the host's side of the loop. It grows caches, streams, and looks for ends."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.generation.buckets import length_bucket, row_bucket
from jaxformers.generation.loop import Choice, Rules, State, begin, draw, greedy, lengthen, reread, write, write_one
from jaxformers.generation.outputs import GenerateOutput
from jaxformers.generation.record import Recording
from jaxformers.generation.request import Request
from jaxformers.generation.stopping import Ends

FIRST = 256  # new tokens that a growing cache has room for at first
LOOK = 8  # tokens between looks of the host


def sample(request: Request) -> GenerateOutput | jax.Array:
    """The mode of greedy search and of sampling, with everything a request may ask besides."""
    ends, recording = Ends.of(request), Recording.of(request)
    state: State | None = None
    try:
        tell(request, prompt_ids(request))
        for now, columns in chunks(request, ends, recording):
            state = now
            for column in columns:
                tell(request, column)
    finally:
        if request.streamer is not None:
            request.streamer.end()  # after an error too: another thread may be waiting
    sequences = jnp.asarray(ends.ids)
    return recording.output(request, sequences, state) if request.config.return_dict_in_generate else sequences


def tell(request: Request, tokens: np.ndarray) -> None:
    """Hand tokens to the streamer, if there is one."""
    if request.streamer is not None:
        request.streamer.put(tokens)


def chunks(request: Request, ends: Ends, recording: Recording) -> Iterator[tuple[State, list[np.ndarray]]]:
    """Write until the end; yields the state and the tokens [B] of each new column, whenever the host looked."""
    choose = draw if request.config.do_sample else greedy
    last = request.capacity  # the column after the last that may be written
    length, most = first_length(request), length_bucket(last)
    order, rows = repeats(request)
    rules = Rules(
        eos=jnp.asarray(ends.eos, jnp.int32),
        pad=jnp.asarray(ends.pad or 0, jnp.int32),
        rows=jnp.asarray(rows, jnp.int32),
        limit=jnp.asarray(last, jnp.int32),
    )
    ends.start(prompt_ids(request))
    state, seen = begin(
        request.model,
        request.writer,
        request.prompt,
        order,
        request.transforms,
        rules,
        request.key,
        capacity=length,
        dtype=None,
        choose=choose,
    )
    recording.add(request, seen, length)
    at = request.prompt.width
    yield state, take(state, ends, at, at + 1, recording)
    at, turn = at + 1, turning_column(request)
    while at < last and not ends.over:
        if at >= length:
            length = min(length_bucket(2 * length), most)
            state = lengthen(state, length=length)
        if at == turn:  # all columns move to the left, where the bucket's padding was
            size = at - int(request.prompt.start)
            given = (request.model, request.writer, state, request.transforms, rules)
            state, seen = reread(*given, size=size, choose=choose)
            recording.add(request, seen, size)
            yield state, take(state, ends, size, size + 1, recording)
            at, last = size + 1, last - at + size
            continue
        stop = min(last, length, at + pace(request, ends, recording))
        stop = min(stop, turn) if turn is not None and at < turn else stop
        state, seen = advance(request, state, rules.replace(limit=jnp.asarray(stop, jnp.int32)), choose, recording)
        recording.add(request, seen, at)
        stop = at + 1 if recording.steps else int(state.seen.end)
        yield state, take(state, ends, at, stop, recording)
        at = stop
        if ends.watched and ends.done.any():
            state = state.replace(done=state.done | more_done(ends.done, len(state.done)))


def turning_column(request: Request) -> int | None:
    """The column at which all tokens must be read anew; None when it is not ahead."""
    size = request.writer.reread
    if size is None or request.prompt_length > size or request.writer.sides > 1:
        return None
    return int(request.prompt.start) + size + 1


def advance(
    request: Request, state: State, rules: Rules, choose: Choice, recording: Recording
) -> tuple[State, dict[str, Any]]:
    """One chunk, or one token when steps are recorded."""
    given = (request.model, request.writer, state, request.transforms, rules)
    if recording.steps:
        return write_one(*given, choose=choose)
    return write(*given, choose=choose), {}


def pace(request: Request, ends: Ends, recording: Recording) -> int:
    """How many tokens to write before the host looks again."""
    if request.streamer is not None or recording.steps:
        return 1
    return LOOK if ends.watched else request.new_tokens


def first_length(request: Request) -> int:
    """Columns that tokens and cache have room for at first."""
    c = request.config
    if c.cache_implementation in ("static", "offloaded_static"):
        return length_bucket(max(request.capacity, c.max_cache_len or 0))
    return min(length_bucket(request.capacity), length_bucket(request.prompt.width + min(request.new_tokens, FIRST)))


def repeats(request: Request) -> tuple[jax.Array | None, int]:
    """Which row of the prompt each row goes on from, None for one row each, and how many rows are wanted."""
    copies = request.config.num_return_sequences or 1
    rows = request.rows * copies
    if copies == 1:
        return None, rows
    return jnp.minimum(jnp.arange(row_bucket(rows)), rows - 1) // copies, rows


def prompt_ids(request: Request) -> np.ndarray:
    """The caller's tokens [B,P], each as often as texts are wanted."""
    prompt = request.prompt
    ids = np.asarray(prompt.tokens)[: request.rows, int(prompt.start) :]
    return np.repeat(ids, request.config.num_return_sequences or 1, axis=0)


def take(state: State, ends: Ends, start: int, stop: int, recording: Recording) -> list[np.ndarray]:
    """Columns `start` to `stop` of the caller's rows, as far as the end."""
    columns = np.asarray(state.seen.tokens)[: len(ends.ids), start:stop].T
    out = []
    for column in columns:
        out.append(ends.add(column, recording.last_scores))
        if ends.done.all():
            break
    return out


def more_done(done: np.ndarray, rows: int) -> jax.Array:
    """Finished rows, rows of the bucket counted as finished."""
    return jnp.asarray(np.pad(done, (0, rows - len(done)), constant_values=True))
