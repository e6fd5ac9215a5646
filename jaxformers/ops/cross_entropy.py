"""Cross-entropy of a language model's head, by default without ever holding the scores of all tokens.

The op is called with hidden states x [B,T,D], the head's matrix [V,D], labels Int [B,T] (-100 counts nothing) and
perhaps a bias [V]. Scores are `cap(scale * (x matrix^T + bias))`, with cap(s) = softcap * tanh(s / softcap). It returns
for each token the loss and the logarithm of the sum of exponentials (from which a z-loss is made), [B,T] in float32. A
label that is no word gives NaN.

`chunk` is the number of a device's tokens whose scores may be held at a time; naming one forces a form that holds no
more. Tokens and words may be spread over a mesh: no tokens are moved between devices, only three numbers for each token
between those that share out the words, and the matrix's gradient is summed over devices once.
"""

import jax
import jax.numpy as jnp

from jaxformers.core.sharding import constrain, mesh_in_use
from jaxformers.ops.cross_entropy_parts import IGNORED, Pair, Scores, Split, counted
from jaxformers.ops.cross_entropy_tokens import in_chunks
from jaxformers.ops.cross_entropy_words import in_blocks
from jaxformers.ops.dispatch import Op

__all__ = ["IGNORED", "Scores", "cross_entropy", "linear_cross_entropy"]

LARGE = 2**26  # scores on one device (256 MiB); fewer are not worth computing twice
AT_ONCE = 2**24  # scores that are held at a time (64 MiB), when the caller names no number of tokens


def plain(
    x: jax.Array,
    matrix: jax.Array,
    labels: jax.Array,
    bias: jax.Array | None = None,
    *,
    scores: Scores = Scores(),
    chunk: int | None = None,
) -> Pair:
    """All scores at once; `chunk` is for other implementations."""
    z = constrain(scores.of(x, matrix, bias), "batch", "length", "vocab")
    return cross_entropy(z, labels, scores)


def cross_entropy(z: jax.Array, labels: jax.Array, scores: Scores = Scores()) -> Pair:
    """What the op returns, of ready scores [...,V] and labels [...]."""
    z = z.astype(jnp.float32)
    total = jax.nn.logsumexp(z, axis=-1)
    picked = picked_by_mask(z, labels) if mesh_in_use() is not None else picked_by_place(z, labels)
    return counted(scores.loss(total, picked, z.mean(axis=-1)), labels, z.shape[-1]), total


def picked_by_mask(z: jax.Array, labels: jax.Array) -> jax.Array:
    """The label's score, 0 where it is no word, by a form that devices with parts of the vocabulary can share."""
    return jnp.where(labels[..., None] == jnp.arange(z.shape[-1]), z, 0.0).sum(axis=-1)


@jax.custom_jvp
def picked_by_place(z: jax.Array, labels: jax.Array) -> jax.Array:
    """The same, reading nothing but those scores."""
    inside = (labels >= 0) & (labels < z.shape[-1])
    found = jnp.take_along_axis(z, jnp.where(inside, labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(inside, found, 0.0)


@picked_by_place.defjvp
def picked_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """Its gradient is a mask times a number, which is added to others in passing; a scatter would fill an array."""
    return picked_by_place(*primals), picked_by_mask(tangents[0], primals[1])


linear_cross_entropy = Op("cross_entropy", plain)


@linear_cross_entropy.register("blocked", priority=6)
def blocked(
    x: jax.Array,
    matrix: jax.Array,
    labels: jax.Array,
    bias: jax.Array | None = None,
    *,
    scores: Scores = Scores(),
    chunk: int | None = None,
) -> Pair:
    """A few words at a time, for all tokens."""
    split = Split.in_use(x.shape, matrix.shape)
    tokens, words = on_a_device(labels, matrix, split)
    held = worthwhile(tokens, words, chunk)
    if tokens > words:
        raise NotImplementedError(f"a device has {tokens} tokens and {words} words: cutting up the tokens reads less")
    return in_blocks(x, matrix, bias, labels, scores, split, min(even(held // tokens), words))


@linear_cross_entropy.register("chunked", priority=5)
def chunked(
    x: jax.Array,
    matrix: jax.Array,
    labels: jax.Array,
    bias: jax.Array | None = None,
    *,
    scores: Scores = Scores(),
    chunk: int | None = None,
) -> Pair:
    """A few tokens at a time, for all words."""
    split = Split.in_use(x.shape, matrix.shape)
    tokens, words = on_a_device(labels, matrix, split)
    held = worthwhile(tokens, words, chunk)
    return in_chunks(x, matrix, bias, labels, scores, split, min(even(held // words), tokens))


def on_a_device(labels: jax.Array, matrix: jax.Array, split: Split) -> tuple[int, int]:
    """How many tokens and words each device has."""
    return labels.size // split.parts[0], matrix.shape[0] // split.parts[1]


def even(count: int) -> int:
    """At least one, and a multiple of what matrix units take at a time where there are as many."""
    return max(count - count % 128 if count > 128 else count, 1)


def worthwhile(tokens: int, words: int, chunk: int | None) -> int:
    """How many scores to hold at a time. Raises NotImplementedError where all are few, unless `chunk` is named."""
    if chunk is not None:
        return chunk * words
    if tokens * words <= LARGE:
        raise NotImplementedError(f"a device has only {tokens * words} scores; name a chunk to force this form")
    return AT_ONCE
