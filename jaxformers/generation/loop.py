"""The loop that writes one token after another: two programs, one reads the prompt and one writes until a limit.

Both are compiled once for each bucket of lengths and rows. The second is a `lax.while_loop` whose state is donated, so
caches are changed in place; it may be called again with a later limit, and what it wrote does not depend on that.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.rows import grow, take_rows
from jaxformers.core.state import Cache
from jaxformers.generation.seen import Seen
from jaxformers.generation.transform import LogitsTransform
from jaxformers.generation.writer import Prompt, Records, Writer
from jaxformers.hub.model import Model

# (scores [B,V], key or None) -> tokens Int [B].
Choice = Callable[[jax.Array, Any], jax.Array]


@struct.dataclass
class State:
    """A text being written, R rows."""

    seen: Seen  # tokens Int [R,L]
    done: jax.Array  # Bool [R]
    cache: Cache  # 2R rows where a negative prompt is read beside, its own last
    key: jax.Array | None = None


@struct.dataclass
class Rules:
    """Numbers that the programs read, and that change without compiling anew."""

    eos: jax.Array  # Int [E]: tokens that end a text
    pad: jax.Array  # Int []: follows the end, where there are tokens that end
    rows: jax.Array  # Int []: rows from here on are copies
    limit: jax.Array  # Int []: the column to stop before


def greedy(scores: jax.Array, key: Any) -> jax.Array:
    """The likeliest token of each row, the first among equals."""
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def draw(scores: jax.Array, key: jax.Array) -> jax.Array:
    """A token of each row with the probabilities of softmax(scores). What a row gets does not depend on the others."""
    return jax.random.categorical(key, scores, axis=-1).astype(jnp.int32)


def put(state: State, scores: jax.Array, transforms: LogitsTransform, rules: Rules, choose: Choice):
    """Choose the next token and write it. Returns the state and the scores after the transforms.

    scores [R,V]; [2R,V] with a negative prompt, of which the first transform makes one.
    """
    seen = state.seen
    scores = transforms(scores, seen)
    key = None if state.key is None else jax.random.fold_in(state.key, seen.new)
    token = choose(scores, key)
    if rules.eos.size:
        token = jnp.where(state.done, rules.pad, token)
    tokens = jax.lax.dynamic_update_slice(seen.tokens, token[:, None], (0, seen.end))
    done = state.done | jnp.isin(token, rules.eos)
    return state.replace(seen=seen.replace(tokens=tokens, end=seen.end + 1), done=done), scores


def follow(model: Model, writer: Writer, state: State) -> tuple[jax.Array, Cache, Records]:
    """Read the last token: scores [R,V] or [2R,V], the cache, records."""
    last = jax.lax.dynamic_slice_in_dim(state.seen.tokens, state.seen.end - 1, 1, axis=1)
    scores, cache, records = writer.step(model, jnp.tile(last, (writer.sides, 1)), state.cache)
    return scores[:, -1], cache, records


def cast(model: Model) -> Model:
    """The parameters in the compute dtype, once for a whole loop."""
    return model.cast(model._static.compute_dtype)


@partial(jax.jit, static_argnames=("writer", "capacity", "dtype", "choose"))
def begin(
    model: Model,
    writer: Writer,
    prompt: Prompt,
    order: jax.Array | None,
    transforms: LogitsTransform,
    rules: Rules,
    key: jax.Array | None,
    *,
    capacity: int,
    dtype: Any,
    choose: Choice,
) -> tuple[State, dict[str, Any]]:
    """Read the prompt and write the first token. order Int [R]: which row of the prompt each row goes on from.

    Returns the state and what the step saw: scores, logits, records.
    """
    scores, cache, records = writer.prefill(model, prompt, capacity, dtype)
    seen, count = prompt.seen(capacity), len(prompt.tokens) // writer.sides
    if order is not None:
        rows = jnp.concatenate([order + side * count for side in range(writer.sides)])
        scores, cache = scores[rows], take_rows(cache, rows)
    if order is not None or writer.sides > 1:
        seen = seen_rows(seen, jnp.arange(count) if order is None else order)
    done = jnp.arange(len(seen.tokens)) >= rules.rows
    state, after = put(State(seen, done, cache, key), scores, transforms, rules, choose)
    return state, {"scores": after, "logits": scores[: len(done)], "records": records}


def seen_rows(seen: Seen, order: jax.Array) -> Seen:
    """Rows of the tokens and of what an encoder read."""
    source = seen.encoder_tokens
    return seen.replace(tokens=seen.tokens[order], encoder_tokens=None if source is None else source[order])


@partial(jax.jit, static_argnames=("writer", "choose"), donate_argnames=("state",))
def write(
    model: Model, writer: Writer, state: State, transforms: LogitsTransform, rules: Rules, *, choose: Choice
) -> State:
    """Write tokens until every row is done or column `rules.limit` is reached."""
    model = cast(model)

    def unfinished(state: State) -> jax.Array:
        return (state.seen.end < rules.limit) & ~jnp.all(state.done)

    def one(state: State) -> State:
        scores, cache, _ = follow(model, writer, state)
        return put(state.replace(cache=cache), scores, transforms, rules, choose)[0]

    return jax.lax.while_loop(unfinished, one, state)


@partial(jax.jit, static_argnames=("writer", "choose"), donate_argnames=("state",))
def write_one(
    model: Model, writer: Writer, state: State, transforms: LogitsTransform, rules: Rules, *, choose: Choice
) -> tuple[State, dict[str, Any]]:
    """Write one token, and return what the step saw as `begin` does."""
    scores, cache, records = follow(model, writer, state)
    state, after = put(state.replace(cache=cache), scores, transforms, rules, choose)
    return state, {"scores": after, "logits": scores[: len(state.done)], "records": records}


@partial(jax.jit, static_argnames=("writer", "size", "choose"), donate_argnames=("state",))
def reread(
    model: Model, writer: Writer, state: State, transforms: LogitsTransform, rules: Rules, *, size: int, choose: Choice
) -> tuple[State, dict[str, Any]]:
    """Read all tokens anew, of which there are `size`, and write one: what `write_one` does, without the old cache.

    Columns before the first token are left out, so all columns move by `seen.start`.
    """
    seen, length = state.seen, state.seen.tokens.shape[1]
    tokens, real = (jax.lax.dynamic_slice_in_dim(x, seen.start, size, axis=1) for x in (seen.tokens, state.cache.valid))
    positions = jnp.where(real, jnp.cumsum(real, axis=1) - 1, 0)
    shift = positions[:, -1] + 1 - size
    prompt = Prompt(tokens, real, positions, shift, jnp.zeros((), jnp.int32), rules.rows, {})
    scores, cache, records = writer.prefill(model, prompt, length, None)
    end = jnp.asarray(size, jnp.int32)
    moved = seen.replace(
        tokens=jnp.pad(tokens, ((0, 0), (0, length - size))), start=end * 0, begin=seen.begin - seen.start, end=end
    )
    state, after = put(state.replace(seen=moved, cache=cache), scores, transforms, rules, choose)
    return state, {"scores": after, "logits": scores, "records": records}


@partial(jax.jit, static_argnames=("length",))
def lengthen(state: State, length: int) -> State:
    """Room for `length` columns. Nothing is donated: longer arrays fit no old place."""
    tokens = state.seen.tokens
    tokens = jnp.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
    return state.replace(seen=state.seen.replace(tokens=tokens), cache=grow(state.cache, length))
