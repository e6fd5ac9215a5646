"""Transforms that make a text longer or shorter by the score of its end."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.errors import ConfigError
from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import (
    Array,
    Number,
    Tokens,
    Whole,
    number,
    some_token_ids,
    token_ids,
    whole,
)
from jaxformers.generation.transforms.arguments import positive as above_zero
from jaxformers.generation.transforms.vocabulary import named


@dataclass
class MinLength:
    """No end before so many tokens, prompt included."""

    min_length: Whole
    eos_token_id: Array

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        ends = named(self.eos_token_id, scores.shape[-1])
        return jnp.where(ends & (seen.length < self.min_length), -jnp.inf, scores)


def min_length(min_length: Whole, eos_token_id: Tokens) -> MinLength:
    """Ban the end until a row has `min_length` tokens; a decoder's prompt counts."""
    return MinLength(whole("min_length", min_length, 0), token_ids("eos_token_id", eos_token_id))


@dataclass
class MinNewTokens:
    """No end before so many new tokens."""

    min_new_tokens: Whole
    eos_token_id: Array

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        ends = named(self.eos_token_id, scores.shape[-1])
        return jnp.where(ends & (seen.new < self.min_new_tokens), -jnp.inf, scores)


def min_new_tokens(min_new_tokens: Whole, eos_token_id: Tokens) -> MinNewTokens:
    """Ban the end until a row has `min_new_tokens` tokens after its prompt."""
    return MinNewTokens(whole("min_new_tokens", min_new_tokens, 0), token_ids("eos_token_id", eos_token_id))


@dataclass
class ExponentialDecayLengthPenalty:
    """Ends gain `|score| * (factor ** n - 1)`, where n counts new tokens after the first `start`."""

    start: Whole
    log_factor: Number
    eos_token_id: Array

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        over = jnp.maximum(seen.new - self.start, 0)
        # factor ** n - 1 would lose all digits that n * log(factor) has below 1.
        gain = jnp.abs(scores) * jnp.expm1(over * self.log_factor)
        ends = named(self.eos_token_id, scores.shape[-1]) & jnp.isfinite(scores) & (over > 0)
        return scores + jnp.where(ends, gain, 0.0)


def exponential_decay_length_penalty(
    exponential_decay_length_penalty: tuple[int, float], eos_token_id: Tokens
) -> ExponentialDecayLengthPenalty:
    """After `start` new tokens, make the end likelier by a growing factor: (start, factor)."""
    pair: Any = exponential_decay_length_penalty
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ConfigError(f"`exponential_decay_length_penalty` has to be (start, factor), but is {pair}")
    start = whole("exponential_decay_length_penalty[0]", pair[0], 0)
    factor = number("exponential_decay_length_penalty[1]", pair[1], above_zero, "a strictly positive float")
    log_factor = math.log(factor) if isinstance(factor, float) else jnp.log(factor)
    return ExponentialDecayLengthPenalty(start, log_factor, some_token_ids("eos_token_id", eos_token_id))
