"""The books of group and constrained beam search, as transformers had them before version 5.

Pure functions on arrays of B texts with K beams each. They differ from those of `beam_state` in that texts that still
run at the end compete with the finished ones, and in when a text's search closes: for good, to write padding.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.generation.beam_state import (
    FAR,
    BeamRules,
    Hypotheses,
    breadth,
    extended,
    likeliest,
    newest,
    put_token,
    take_along,
)
from jaxformers.generation.seen import Seen


@struct.dataclass
class Scorer:
    """One search, or one group of a search, for each of B texts."""

    running: Hypotheses  # K of them
    finished: Hypotheses  # K of them, best first; where `complete` is False there is none yet
    complete: jax.Array  # Bool [B,K]
    done: jax.Array  # Bool [B]: whether the search is closed


def first_scorer(tokens: jax.Array, width: int, fill: jax.Array, begin: jax.Array) -> Scorer:
    """K equal beams for each prompt in tokens [B,L], of which the first counts; `fill` is in the columns to come."""
    count, length = tokens.shape
    tokens = jnp.repeat(jnp.where(jnp.arange(length) < begin, tokens, fill)[:, None], width, axis=1)
    origins = jnp.full(tokens.shape, -1, jnp.int32)
    far = jnp.full((count, width), FAR, jnp.float32)
    return Scorer(
        running=Hypotheses(tokens, far.at[:, 0].set(0.0), origins),
        finished=Hypotheses(tokens, far, origins),
        complete=jnp.zeros((count, width), bool),
        done=jnp.zeros(count, bool),
    )


def continuations(scorer: Scorer, total: jax.Array, first: jax.Array, column: jax.Array, rules: BeamRules):
    """The likeliest continuations, best first, and which of them ended.

    total [B,K,V]. first Int [B]: the number of each prompt's first beam.
    """
    batch, width, _ = total.shape
    places = likeliest(total.reshape(batch, -1), breadth(width, rules.eos.size))
    found = extended(scorer.running, total, places, column, first)
    return found, jnp.isin(newest(found.tokens, column), rules.eos)


def onward(found: Hypotheses, ended: jax.Array, width: int) -> Hypotheses:
    """The first K continuations that did not end."""
    return found.take(jnp.argsort(ended, axis=1, stable=True)[:, :width])


def closed(scorer: Scorer, found: Hypotheses, ended: jax.Array, frame: Seen, rules: BeamRules) -> Scorer:
    """The finished texts with those among the first K continuations that ended, and whether that is enough."""
    width, new = scorer.complete.shape[1], frame.new + 1
    ripe = ended & (jnp.arange(ended.shape[1]) < width) & ~scorer.done[:, None]
    if rules.eos.size:  # whatever token ended a text, the first of them is written
        origin = newest(found.origins, frame.end)
        texts = put_token(found, jnp.full_like(origin, rules.eos[0]), origin, frame.end)
        scorer = ranked(scorer, texts, ripe, new, rules)
    length = jnp.where(rules.hope > 0, rules.hope, new)
    hoped = jnp.max(found.scores, axis=1) / rules.penalties[length]
    enough = rules.content | (jnp.min(scorer.finished.scores, axis=1) >= hoped)
    return scorer.replace(done=scorer.done | (jnp.all(scorer.complete, axis=1) & enough))


def ranked(scorer: Scorer, texts: Hypotheses, ripe: jax.Array, new: jax.Array, rules: BeamRules) -> Scorer:
    """The best K of the finished texts and of those [B,C] that are ripe, which have `new` tokens."""
    width = scorer.complete.shape[1]
    merged = scorer.finished.beside(texts.replace(scores=texts.scores / rules.penalties[new]))
    complete = jnp.concatenate([scorer.complete, ripe], axis=1)
    best = jax.lax.top_k(jnp.where(complete, merged.scores, -jnp.inf), width)[1]
    return scorer.replace(finished=merged.take(best), complete=take_along(complete, best))


def going(scorer: Scorer, chosen: Hypotheses, done: jax.Array, first: jax.Array, column: jax.Array, pad: jax.Array):
    """The scorer with the chosen texts running; searches that were done before write padding."""
    batch, width = chosen.scores.shape
    shape = (batch, width)
    rest = scorer.running.replace(scores=jnp.zeros(shape, jnp.float32))
    same = first[:, None] + jnp.arange(width, dtype=jnp.int32)
    rest = put_token(rest, jnp.broadcast_to(pad, shape), same, column)

    def either(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(done.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return scorer.replace(running=jax.tree.map(either, rest, chosen))


def final(scorer: Scorer, worthy: jax.Array, frame: Seen, rules: BeamRules) -> Scorer:
    """The finished texts with those that still run, as far as they are worthy (Bool [B,K])."""
    return ranked(scorer, scorer.running, worthy & ~scorer.done[:, None], frame.new, rules)


def over(done: jax.Array, stopped: jax.Array, frame: Seen, rules: BeamRules) -> jax.Array:
    """Bool []: whether nothing is left to write. done Bool [B]; stopped Bool [B,K]: by the caller's criteria."""
    copy = jnp.arange(len(done)) >= rules.rows
    rest = done | copy
    return jnp.all(rest) | (frame.end + 1 >= rules.limit) | jnp.all(stopped | rest[:, None])
