"""Bans on n-grams that were seen before, in what was written or in what an encoder read."""

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import size
from jaxformers.generation.transforms.repetition import encoder_of
from jaxformers.generation.transforms.vocabulary import for_rows, latest, named_by_row


def completions(tokens: jax.Array, real: jax.Array, prefix: jax.Array, vocabulary: int) -> jax.Array:
    """Bool [B,V]: what follows `prefix` [B,n-1] anywhere in `tokens` [B,L]; an n-gram lies within `real` [L]."""
    size = prefix.shape[1] + 1
    windows = tokens.shape[1] - size + 1
    follows = real[size - 1 :]
    for place in range(size - 1):
        follows = follows & real[place : place + windows]
    follows = jnp.broadcast_to(follows, (tokens.shape[0], windows))
    for place in range(size - 1):
        follows = follows & (tokens[:, place : place + windows] == prefix[:, place, None])
    return named_by_row(tokens[:, size - 1 :], follows, vocabulary)


@dataclass
class NoRepeatNGram:
    """No n-gram of this size twice."""

    ngram_size: int = struct.field(pytree_node=False)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        if self.ngram_size > seen.tokens.shape[1]:
            return scores
        prefix = latest(seen, self.ngram_size - 1)
        return jnp.where(completions(seen.tokens, seen.real, prefix, scores.shape[-1]), -jnp.inf, scores)


def no_repeat_ngram(ngram_size: int) -> NoRepeatNGram:
    """Ban tokens that would complete an n-gram which the row, prompt included, has already (arXiv 1705.04304)."""
    return NoRepeatNGram(size("ngram_size", ngram_size))


@dataclass
class EncoderNoRepeatNGram:
    """No n-gram of this size that the encoder, or the prompt of a decoder, holds."""

    encoder_ngram_size: int = struct.field(pytree_node=False)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        tokens, real = encoder_of(seen, "encoder_no_repeat_ngram")
        if self.encoder_ngram_size > min(tokens.shape[1], seen.tokens.shape[1] + 1):
            return scores
        prefix = latest(seen, self.encoder_ngram_size - 1)
        banned = completions(for_rows(tokens, scores.shape[0]), real, prefix, scores.shape[-1])
        return jnp.where(banned & (seen.length >= self.encoder_ngram_size - 1), -jnp.inf, scores)


def encoder_no_repeat_ngram(encoder_ngram_size: int) -> EncoderNoRepeatNGram:
    """Ban tokens that would complete an n-gram of `seen.encoder_tokens` (as BlenderBot does, arXiv 2004.13637)."""
    return EncoderNoRepeatNGram(size("encoder_ngram_size", encoder_ngram_size))
