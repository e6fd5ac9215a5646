"""Which tokens of a draft stand: those that would have been written anyway, or by speculative sampling."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.generation.loop import Choice
from jaxformers.generation.rounds import Draft


def leading(right: jax.Array) -> jax.Array:
    """How many of right [N] are true before the first that is not."""
    return jnp.sum(jnp.cumprod(right.astype(jnp.int32)))


def matching(
    scores: jax.Array, draft: Draft, key: Any, new: jax.Array, weight: jax.Array, choose: Choice
) -> tuple[jax.Array, jax.Array]:
    """Choose a token for every column as without a draft, with the key of that column; drafts that agree stand.

    scores [W+1,V]. Returns tokens Int [W+1], of which one more is right than drafts stand, and how many stand.
    """
    if draft.scores is not None:  # the choice is of both models' mean
        scores = jnp.log(mixed(scores, draft, weight))
    at = new + jnp.arange(len(scores))
    keys = None if key is None else jax.vmap(lambda n: jax.random.fold_in(key, n))(at)
    tokens = jax.vmap(lambda s, k: choose(s[None], k)[0])(scores, keys)
    drafted = jnp.arange(len(scores) - 1) < draft.count
    return tokens, leading((tokens[:-1] == draft.tokens) & drafted)


def mixed(scores: jax.Array, draft: Draft, weight: jax.Array) -> jax.Array:
    """Probabilities [W+1,V]: the mean of both where there is a draft, else the model's."""
    p, q = jax.nn.softmax(scores, axis=-1), spread(draft)
    share = jnp.where(jnp.arange(len(p)) < draft.count, weight, 1.0)[:, None]
    return share * p + (1.0 - share) * q


def spread(draft: Draft) -> jax.Array:
    """Probabilities [W+1,V] that drafts were drawn by, zero where there is none."""
    q = jnp.pad(jax.nn.softmax(draft.scores, axis=-1), ((0, 1), (0, 0)))
    return jnp.where((jnp.arange(len(q)) < draft.count)[:, None], q, 0.0)


def speculative(
    scores: jax.Array, draft: Draft, key: jax.Array, new: jax.Array, weight: jax.Array, choose: Choice
) -> tuple[jax.Array, jax.Array]:
    """Algorithm 1 of arXiv:2211.17192: what is written has the model's distribution, whatever the draft's is.

    A weight below 1 lets more of the draft stand, and the distribution is not the model's any more (arXiv:2604.07622).
    Returns as `matching` does.
    """
    width = len(draft.tokens)
    accept, draw = jax.random.split(jax.random.fold_in(key, new))
    p, q = jax.nn.softmax(scores, axis=-1), spread(draft)
    at = (jnp.arange(width), draft.tokens)
    drafted = jnp.arange(width) < draft.count
    ratio = 1.0 - weight + weight * p[at] / jnp.where(drafted, q[at], 1.0)
    right = leading((jax.random.uniform(accept, (width,)) < ratio) & drafted)
    rest = jnp.maximum(p[right] - q[right], 0.0)  # where nothing was drafted, the model's own
    rest = jnp.where(jnp.sum(rest) > jnp.finfo(rest.dtype).tiny, rest, p[right])
    last = jax.random.categorical(draw, jnp.log(rest)).astype(jnp.int32)
    return jnp.pad(draft.tokens, (0, 1)).at[right].set(last), right
