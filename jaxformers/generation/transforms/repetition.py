"""Penalties on tokens that were seen before, in what was written or in what an encoder read."""

import jax
import jax.numpy as jnp

from jaxformers.core.errors import ConfigError
from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import Number, Whole, number, positive, whole
from jaxformers.generation.transforms.vocabulary import for_rows, named_by_row

POSITIVE = "a strictly positive float"


def penalized(scores: jax.Array, penalty: Number) -> jax.Array:
    """Less likely for a penalty above 1, whichever sign the score has."""
    return jnp.where(scores < 0, scores * penalty, scores / penalty)


@dataclass
class RepetitionPenalty:
    """A penalty on every token seen, except in the first `prompt_ignore_length` columns (for all rows or one each)."""

    penalty: Number
    prompt_ignore_length: Whole | None = None

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        counts = seen.real
        if self.prompt_ignore_length is not None:
            ignored = jnp.asarray(self.prompt_ignore_length).reshape(-1)
            counts &= jnp.arange(seen.tokens.shape[1]) >= seen.start + for_rows(ignored, scores.shape[0])[:, None]
        repeated = named_by_row(seen.tokens, counts, scores.shape[-1])
        return jnp.where(repeated, penalized(scores, self.penalty), scores)


def repetition_penalty(penalty: Number, prompt_ignore_length: Whole | None = None) -> RepetitionPenalty:
    """Penalise tokens seen before, once each (arXiv 1909.05858); a penalty below 1 rewards them.

    `prompt_ignore_length` counts columns of the prompt from the left, the caller's padding included: Int or Int [B].
    """
    penalty = number("penalty", penalty, positive, POSITIVE)
    if prompt_ignore_length is None:
        return RepetitionPenalty(penalty)
    ignored = whole("prompt_ignore_length", prompt_ignore_length, 0)
    if jnp.ndim(ignored) > 1:
        raise ConfigError(f"`prompt_ignore_length` has to be one number or one for each row, but is {ignored}")
    return RepetitionPenalty(penalty, ignored)


@dataclass
class EncoderRepetitionPenalty:
    """A reward for tokens that the encoder, or the prompt of a decoder, holds."""

    reward: Number  # what scores are divided by: 1 / encoder_repetition_penalty

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        tokens, real = encoder_of(seen, "encoder_repetition_penalty")
        read = named_by_row(for_rows(tokens, scores.shape[0]), real, scores.shape[-1])
        return jnp.where(read, penalized(scores, self.reward), scores)


def encoder_repetition_penalty(penalty: Number) -> EncoderRepetitionPenalty:
    """Penalise tokens that are not in `seen.encoder_tokens`; a penalty above 1 keeps close to what was read."""
    return EncoderRepetitionPenalty(1 / number("penalty", penalty, positive, POSITIVE))


def encoder_of(seen: Seen, who: str) -> tuple[jax.Array, jax.Array]:
    """Tokens [B,S] that the encoder read and which of their columns are real [S]."""
    if seen.encoder_tokens is None:
        raise ConfigError(f"{who} needs the tokens that the encoder read: set `encoder_tokens` of Seen")
    real = seen.encoder_real
    return seen.encoder_tokens, jnp.ones(seen.encoder_tokens.shape[1], bool) if real is None else real
