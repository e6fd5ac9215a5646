"""Contrastive search (arXiv:2202.06417): of the K likeliest tokens the one whose state is least like those before it.

The K candidates of every text are read in one call, so the cache holds each text K times.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxformers.core.errors import ConfigError
from jaxformers.core.rows import reorder_rows, take_rows
from jaxformers.generation import loop
from jaxformers.generation.buckets import length_bucket
from jaxformers.generation.drafting import refuse_turn
from jaxformers.generation.loop import Rules, State, cast
from jaxformers.generation.outputs import GenerateOutput
from jaxformers.generation.record import Recording
from jaxformers.generation.request import Request
from jaxformers.generation.sample import first_length, more_done, pace, prompt_ids, take
from jaxformers.generation.stopping import Ends
from jaxformers.generation.transform import LogitsTransform
from jaxformers.generation.writer import Prompt, Records, Writer
from jaxformers.hub.model import Model


@struct.dataclass
class Contrast:
    """Texts being written, B rows."""

    text: State  # its cache has K rows for each text
    scores: jax.Array  # [B,V] of the next token
    states: jax.Array  # [B,L,D]: the last layer's states of all tokens, of length one
    real: jax.Array  # Bool [B,L]: which of them count


def directions(records: Records) -> jax.Array:
    """The last layer's states [B,T,D] in float32, of length one."""
    layers = records["hidden_states"] if "hidden_states" in records else records["decoder_hidden_states"]
    states = layers[-1].astype(jnp.float32)
    return states / jnp.linalg.norm(states, axis=-1, keepdims=True)


@partial(jax.jit, static_argnames=("writer", "capacity", "count"))
def begin(model: Model, writer: Writer, prompt: Prompt, rules: Rules, *, capacity: int, count: int) -> Contrast:
    """Read the prompt once for all candidates, of which there are `count`."""
    scores, cache, records = writer.prefill(model, prompt, capacity, None)
    states = directions(records)
    batch, width = states.shape[:2]
    more = capacity - width
    done = jnp.arange(batch) >= rules.rows
    cache = take_rows(cache, jnp.repeat(jnp.arange(batch), count))
    real = jnp.pad(prompt.real, ((0, 0), (0, more)))
    text = State(prompt.seen(capacity), done, cache)
    return Contrast(text, scores, jnp.pad(states, ((0, 0), (0, more), (0, 0))), real)


def one(
    model: Model,
    writer: Writer,
    state: Contrast,
    transforms: LogitsTransform,
    rules: Rules,
    alpha: jax.Array,
    count: int,
) -> tuple[Contrast, dict[str, jax.Array]]:
    """Write one token. Returns the state and what the step saw: scores and logits [B,V]."""
    text, seen = state.text, state.text.seen
    batch = len(seen.tokens)
    scores = transforms(state.scores, seen)
    likely, tokens = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), count)
    ahead, cache, records = writer.step(model, tokens.reshape(-1, 1).astype(jnp.int32), text.cache)
    new = directions(records).reshape(batch, count, -1)
    alike = jnp.einsum("bkd,bld->bkl", new, state.states, precision=jax.lax.Precision.HIGHEST)
    alike = jnp.max(jnp.where(state.real[:, None], alike, jnp.finfo(alike.dtype).min), axis=-1)
    best = jnp.argmax((1.0 - alpha) * likely - alpha * alike, axis=-1)
    rows = jnp.arange(batch)
    token = tokens[rows, best].astype(jnp.int32)
    if rules.eos.size:
        token = jnp.where(text.done, rules.pad, token)
    at = (0, seen.end)
    written = seen.replace(tokens=jax.lax.dynamic_update_slice(seen.tokens, token[:, None], at), end=seen.end + 1)
    after = Contrast(
        text.replace(
            seen=written,
            done=text.done | jnp.isin(token, rules.eos),
            cache=reorder_rows(cache, jnp.repeat(rows * count + best, count)),
        ),
        ahead[:, -1].reshape(batch, count, -1)[rows, best],
        jax.lax.dynamic_update_slice(state.states, new[rows, best][:, None], (*at, 0)),
        jax.lax.dynamic_update_slice(state.real, jnp.ones((batch, 1), bool), at),
    )
    return after, {"scores": scores, "logits": state.scores}


@partial(jax.jit, static_argnames=("writer", "count"), donate_argnames=("state",))
def write(
    model: Model,
    writer: Writer,
    state: Contrast,
    transforms: LogitsTransform,
    rules: Rules,
    alpha: jax.Array,
    *,
    count: int,
) -> Contrast:
    """Write tokens until every row is done or column `rules.limit` is reached."""
    model = cast(model)

    def unfinished(state: Contrast) -> jax.Array:
        return (state.text.seen.end < rules.limit) & ~jnp.all(state.text.done)

    return jax.lax.while_loop(
        unfinished, lambda state: one(model, writer, state, transforms, rules, alpha, count)[0], state
    )


write_one = partial(jax.jit, static_argnames=("writer", "count"), donate_argnames=("state",))(one)


@partial(jax.jit, static_argnames=("length",))
def lengthen(state: Contrast, length: int) -> Contrast:
    """Room for `length` columns."""
    more = length - state.real.shape[1]
    return state.replace(
        text=loop.lengthen(state.text, length=length),
        states=jnp.pad(state.states, ((0, 0), (0, more), (0, 0))),
        real=jnp.pad(state.real, ((0, 0), (0, more))),
    )


def contrastive_search(request: Request) -> GenerateOutput | jax.Array:
    """The mode of contrastive search: penalty_alpha weighs likeness against probability, top_k is K."""
    request = checked(request)
    ends, recording = Ends.of(request), Recording.of(request)
    state = written(request, ends, recording)
    sequences = jnp.asarray(ends.ids)
    if not request.config.return_dict_in_generate:
        return sequences
    rows = request.config.top_k * jnp.arange(len(state.done))  # the cache knows all tokens, the last one too
    return recording.output(request, sequences, state.replace(cache=take_rows(state.cache, rows)))


def checked(request: Request) -> Request:
    """The request with the last states recorded. Raises ConfigError for what contrastive search does not do."""
    config, writer = request.config, request.writer
    if writer.record:
        raise ConfigError(f"contrastive search does not record {' and '.join(writer.record)}; leave that out")
    if writer.sides > 1:
        raise ConfigError("contrastive search does not go together with guidance_scale; leave one of them out")
    if config.penalty_alpha > 1.0:
        raise ConfigError(f"penalty_alpha is {config.penalty_alpha}; expected a number between 0 and 1")
    refuse_turn(request, "contrastive search")
    return request.replace(writer=replace(writer, record=("hidden_states",)))


def written(request: Request, ends: Ends, recording: Recording) -> State:
    """Write until the end."""
    last, length, at = request.capacity, first_length(request), request.prompt.width
    rules = Rules(
        eos=jnp.asarray(ends.eos, jnp.int32),
        pad=jnp.asarray(ends.pad or 0, jnp.int32),
        rows=jnp.asarray(request.rows, jnp.int32),
        limit=jnp.asarray(last, jnp.int32),
    )
    given, count = (request.model, request.writer), request.config.top_k
    alpha = jnp.asarray(request.config.penalty_alpha, jnp.float32)
    ends.start(prompt_ids(request))
    state = begin(*given, request.prompt, rules, capacity=length, count=count)
    while at < last and not ends.over:
        if at >= length:
            length = min(length_bucket(2 * length), length_bucket(last))
            state = lengthen(state, length=length)
        limit = jnp.asarray(min(last, length, at + pace(request, ends, recording)), jnp.int32)
        now = (*given, state, request.transforms, rules.replace(limit=limit), alpha)
        if recording.steps:
            state, seen = write_one(*now, count=count)
            recording.add(request, seen | {"records": {}}, length)
        else:
            state = write(*now, count=count)
        stop = int(state.text.seen.end)
        take(state.text, ends, at, stop, recording)
        at = stop
        if ends.watched and ends.done.any():
            done = state.text.done | more_done(np.asarray(ends.done), len(state.text.done))
            state = state.replace(text=state.text.replace(done=done))
    return state.text
