"""Rounds: a draft proposes tokens, one call of the model checks them all; a loop of rounds is one compiled program.

What drafts is a Drafter; which tokens are kept is a Verify. There is one text only. A round reads a window of W + 1
tokens, W being static; near the end the window lies further back and reads some tokens again, never beyond the end.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.rows import grow, rewind
from jaxformers.core.state import Cache
from jaxformers.generation.loop import Choice, Rules, State, cast
from jaxformers.generation.seen import Seen
from jaxformers.generation.transform import LogitsTransform
from jaxformers.generation.writer import Prompt, Writer
from jaxformers.hub.model import Model


@struct.dataclass
class RoundRules:
    """Numbers that the programs read. `text.limit` is the column to stop before; a round may write some beyond."""

    text: Rules
    last: jax.Array  # Int []: the column after the last that may be written
    most: jax.Array  # Int []: tokens that a draft may ever have
    grows: jax.Array  # Bool []: whether drafts get longer when they are right, shorter when not
    threshold: jax.Array  # Float []: a draft ends with a token less likely than this
    weight: jax.Array  # Float []: of the model, against the draft's; 1 for the model alone


@struct.dataclass
class Draft:
    """W tokens, of which the first `count` are proposed; scores [W,V] are those they were chosen by."""

    tokens: jax.Array  # Int [W]
    count: jax.Array  # Int []
    scores: jax.Array | None = None
    cache: Cache | None = None


@struct.dataclass
class RoundState:
    """A text being written in rounds."""

    text: State
    cache: Cache | None  # the draft's
    count: jax.Array  # Int []: tokens that the next draft may have


class Drafter(Protocol):
    """What proposes tokens; static and hashable. `aid` is the model that helps, if one does."""

    def draft(
        self, aid: Any, state: RoundState, transforms: LogitsTransform, rules: RoundRules, width: int, most: jax.Array
    ) -> Draft:
        """At most `most` tokens."""
        ...


# (scores [W+1,V], draft, key or None, new, weight, how tokens are chosen) -> tokens [W+1], and how many drafts stand.
Verify = Callable[[jax.Array, Draft, Any, jax.Array, jax.Array, Choice], tuple[jax.Array, jax.Array]]


@partial(jax.jit, static_argnames=("writer", "capacity"))
def read_prompt(model: Model, writer: Writer, prompt: Prompt, *, capacity: int) -> Cache:
    """The cache of a draft's model after the prompt."""
    return writer.prefill(model, prompt, capacity, None)[1]


def one_round(
    models: tuple[Model, Any],
    writer: Writer,
    state: RoundState,
    transforms: LogitsTransform,
    rules: RoundRules,
    how: tuple[Drafter, Verify, Choice, int],
) -> tuple[RoundState, dict[str, jax.Array]]:
    """Draft, check, write. Returns the state and what the checks saw: scores and logits [W+1,V]."""
    (model, aid), (drafter, verify, choose, width) = models, how
    text, seen = state.text, state.text.seen
    end, rows = seen.end, jnp.arange(width + 1)
    draft = drafter.draft(aid, state, transforms, rules, width, jnp.minimum(state.count, rules.last - 1 - end))
    tried = placed(seen, draft.tokens, rows[:-1] < draft.count)
    start = jnp.minimum(end - 1, rules.last - 2 - width)
    window = jax.lax.dynamic_slice_in_dim(tried.tokens, start, width + 1, axis=1)
    scores, cache, _ = writer.step(model, window, rewind(text.cache, start))
    logits = jnp.roll(scores[0], start + 1 - end, axis=0)  # row i is of column end + i

    def after(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        return transforms(row[0][None], tried.replace(end=end + row[1]))[0]

    scores = jax.lax.map(after, (logits, rows))
    tokens, right = verify(scores, draft, text.key, seen.new, rules.weight, choose)
    ended = jnp.isin(tokens, rules.text.eos) & (rows <= right)
    kept = jnp.where(jnp.any(ended), jnp.argmax(ended), right) + 1
    longer = jnp.where(right == draft.count, state.count + 2, jnp.maximum(state.count - 1, 1))
    seen = placed(seen, tokens, rows < kept).replace(end=end + kept)
    text = text.replace(seen=seen, cache=cache, done=text.done | jnp.any(ended))
    count = jnp.where(rules.grows, jnp.minimum(longer, rules.most), state.count)
    return RoundState(text, draft.cache, count), {"scores": scores, "logits": logits}


def placed(seen: Seen, tokens: jax.Array, real: jax.Array) -> Seen:
    """Those of tokens [N] that are real, from column `end` on, which stays where it is."""
    columns = jnp.where(real, seen.end + jnp.arange(len(tokens)), seen.tokens.shape[1])
    return seen.replace(tokens=seen.tokens.at[:, columns].set(tokens.astype(seen.tokens.dtype), mode="drop"))


@partial(jax.jit, static_argnames=("writer", "how"), donate_argnames=("state",))
def write(models: tuple, writer: Writer, state: RoundState, transforms: LogitsTransform, rules: RoundRules, *, how):
    """Rounds until the text is done, column `rules.text.limit` is reached, or drafts need a wider window."""
    models = tuple(None if m is None else cast(m) for m in models)

    def unfinished(state: RoundState) -> jax.Array:
        text = state.text
        return (text.seen.end < rules.text.limit) & ~jnp.all(text.done) & (state.count <= how[-1])

    return jax.lax.while_loop(
        unfinished, lambda state: one_round(models, writer, state, transforms, rules, how)[0], state
    )


@partial(jax.jit, static_argnames=("writer", "how"), donate_argnames=("state",))
def write_one(models: tuple, writer: Writer, state: RoundState, transforms: LogitsTransform, rules: RoundRules, *, how):
    """One round, and what it saw."""
    return one_round(models, writer, state, transforms, rules, how)


@partial(jax.jit, static_argnames=("length",))
def lengthen(state: RoundState, length: int) -> RoundState:
    """Room for `length` columns, in the draft's cache too."""
    tokens = state.text.seen.tokens
    tokens = jnp.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
    text = state.text.replace(seen=state.text.seen.replace(tokens=tokens), cache=grow(state.text.cache, length))
    return state.replace(text=text, cache=None if state.cache is None else grow(state.cache, length))


@jax.jit
def forget_ahead(state: State) -> Cache:
    """The cache of a text without what was read beyond its last token but one."""
    return rewind(state.cache, jnp.minimum(state.cache.index, state.seen.end - 1))
