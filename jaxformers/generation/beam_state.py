"""The books of a beam search: pure functions on arrays of B texts with K beams each; no model and no host."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

# What takes a beam out of the running without making it infinite.
FAR = -1.0e9


@struct.dataclass
class Hypotheses:
    """N texts for each of B prompts. Columns before the first new token are the prompt."""

    tokens: jax.Array  # Int [B,N,L]
    scores: jax.Array  # [B,N] float32
    origins: jax.Array  # Int [B,N,L]: the beam (of all B * K) that each new token was appended to, -1 where none was

    def take(self, chosen: jax.Array) -> "Hypotheses":
        """Those that chosen Int [B,M] names."""
        return jax.tree.map(lambda x: take_along(x, chosen), self)

    def beside(self, others: "Hypotheses") -> "Hypotheses":
        """These, followed by the others."""
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), self, others)


@struct.dataclass
class Beams:
    """A search under way: texts that go on, and the best of those that ended."""

    running: Hypotheses  # K of them
    finished: Hypotheses  # K of them; where `complete` is False there is none yet
    complete: jax.Array  # Bool [B,K]
    open: jax.Array  # Bool [B]: whether a running text may still become better than the finished ones
    over: jax.Array  # Bool []: whether the search has ended for all


@struct.dataclass
class BeamRules:
    """Numbers that the programs read, and that change without compiling anew."""

    eos: jax.Array  # Int [E]: tokens that end a text
    fill: jax.Array  # Int []: follows the end, in what is returned
    pad: jax.Array  # Int []: what a closed search writes
    rows: jax.Array  # Int []: texts from here on are copies
    limit: jax.Array  # Int []: no text takes this column
    pause: jax.Array  # Int []: the column to return to the host before
    penalties: jax.Array  # [N+1] float32: what the score of a text with n new tokens is divided by
    hope: jax.Array  # Int []: how long a running text is thought to become; 0 for as long as it is
    content: jax.Array  # Bool []: whether K finished texts are enough, however good they are
    own: Any = None  # what one kind of search needs besides


def take_along(x: jax.Array, chosen: jax.Array) -> jax.Array:
    """Entries [B,M,...] of x [B,N,...]."""
    return jnp.take_along_axis(x, chosen.reshape(chosen.shape + (1,) * (x.ndim - 2)), axis=1)


def first_beams(tokens: jax.Array, width: int, fill: jax.Array, begin: jax.Array) -> Beams:
    """K equal beams for each prompt in tokens [B,L], of which the first counts; `fill` is in the columns to come."""
    count, length = tokens.shape
    tokens = jnp.where(jnp.arange(length) < begin, tokens, fill)
    tokens = jnp.repeat(tokens[:, None], width, axis=1)
    origins = jnp.full(tokens.shape, -1, jnp.int32)
    far = jnp.full((count, width), FAR, jnp.float32)
    return Beams(
        running=Hypotheses(tokens, far.at[:, 0].set(0.0), origins),
        finished=Hypotheses(tokens, far, origins),
        complete=jnp.zeros((count, width), bool),
        open=jnp.ones(count, bool),
        over=jnp.asarray(False),
    )


def breadth(width: int, eos: int) -> int:
    """How many continuations to look at, so that K remain when others end: one more for each token that ends a text."""
    return width * max(2, 1 + eos)


def likeliest(scores: jax.Array, count: int, key: None = None) -> jax.Array:
    """Places [B,count] of the highest scores [B,M], in their order."""
    return jax.lax.top_k(scores, count)[1]


def drawn(scores: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """Places [B,count] drawn one after another from softmax(scores), none twice (Gumbel's trick, arXiv 1903.06059)."""
    return jax.lax.top_k(scores + jax.random.gumbel(key, scores.shape, scores.dtype), count)[1]


def extended(
    running: Hypotheses, scores: jax.Array, places: jax.Array, column: jax.Array, first: jax.Array
) -> Hypotheses:
    """Continuations by one token: places Int [B,C] in K * V of all scores [B,K,V].

    column: where the token goes. first Int [B]: the number of each prompt's first beam, among all beams.
    """
    batch, _, vocabulary = scores.shape
    beam = places // vocabulary
    return put_token(
        running.take(beam).replace(scores=jnp.take_along_axis(scores.reshape(batch, -1), places, axis=1)),
        (places % vocabulary).astype(jnp.int32),
        beam.astype(jnp.int32) + first[:, None],
        column,
    )


def first_numbers(batch: int, width: int) -> jax.Array:
    """The number of each prompt's first beam among all beams, Int [B]."""
    return width * jnp.arange(batch, dtype=jnp.int32)


def put_token(texts: Hypotheses, token: jax.Array, origin: jax.Array, column: jax.Array) -> Hypotheses:
    """The texts with a token [B,N] and where it came from [B,N] in a column."""
    at = (0, 0, column)
    return texts.replace(
        tokens=jax.lax.dynamic_update_slice(texts.tokens, token[..., None], at),
        origins=jax.lax.dynamic_update_slice(texts.origins, origin[..., None], at),
    )


def newest(x: jax.Array, column: jax.Array) -> jax.Array:
    """Entries [B,N] of x [B,N,L] in a column."""
    return jax.lax.dynamic_index_in_dim(x, column, axis=2, keepdims=False)


def survivors(found: Hypotheses, ended: jax.Array, width: int) -> Hypotheses:
    """The best continuations that did not end; ended Bool [B,C]."""
    found = found.replace(scores=jnp.where(ended, found.scores + FAR, found.scores))
    return found.take(jax.lax.top_k(found.scores, width)[1])


def collected(beams: Beams, found: Hypotheses, ended: jax.Array, new: jax.Array, rules: BeamRules) -> Beams:
    """The finished texts, with those of the first K continuations that ended where they are better.

    new Int []: how many tokens the continuations have beyond the prompt.
    """
    width = beams.complete.shape[1]
    ripe = ended & (jnp.arange(ended.shape[1]) < width)
    full = jnp.all(beams.complete, axis=1) & rules.content
    scores = found.scores / rules.penalties[new]
    for refused in (full[:, None], ~beams.open[:, None], ~ripe):
        scores = scores + jnp.where(refused, FAR, 0.0)
    merged = beams.finished.beside(found.replace(scores=scores))
    best = jax.lax.top_k(merged.scores, width)[1]
    complete = take_along(jnp.concatenate([beams.complete, ripe], axis=1), best)
    return beams.replace(finished=merged.take(best), complete=complete)


def still_open(beams: Beams, new: jax.Array, rules: BeamRules) -> jax.Array:
    """Bool [B]: whether the best running text may beat the worst finished one, `new` tokens beyond the prompt."""
    length = jnp.where(rules.hope > 0, rules.hope, new)
    hoped = beams.running.scores[:, :1] / rules.penalties[length]
    worst = jnp.where(beams.complete, jnp.min(beams.finished.scores, axis=1, keepdims=True), FAR)
    return beams.open & jnp.any(hoped > worst, axis=1)


def settled(beams: Beams, found: Hypotheses, ended: jax.Array, new: jax.Array, rules: BeamRules) -> Beams:
    """The beams after one step: continuations found [B,C], and which of them ended."""
    beams = collected(beams, found, ended, new, rules)
    beams = beams.replace(running=survivors(found, ended, beams.complete.shape[1]))
    beams = beams.replace(open=still_open(beams, new, rules))
    copy = jnp.arange(len(beams.open)) >= rules.rows
    content = rules.content & jnp.all(beams.complete | copy[:, None])
    going = jnp.any(beams.open & ~copy) & ~content & ~jnp.all(ended | copy[:, None])
    return beams.replace(over=~going)
