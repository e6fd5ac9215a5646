"""Tokens that must come, or must not, at given places."""

import jax
import jax.numpy as jnp

from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import Array, Tokens, Whole, some_token_ids, token_ids, whole
from jaxformers.generation.transforms.vocabulary import named


def only(ids: Array, scores: jax.Array) -> jax.Array:
    """Scores of 0 for the tokens `ids` and minus infinity for all others."""
    return jnp.where(named(ids, scores.shape[-1]), jnp.zeros_like(scores), -jnp.inf)


@dataclass
class ForcedBos:
    """One token, and no other, after a prompt of one token."""

    bos_token_id: Array

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        return jnp.where(seen.length == 1, only(self.bos_token_id, scores), scores)


def forced_bos(bos_token_id: Tokens) -> ForcedBos:
    """Force the token that follows the decoder's start token, as translation into a language needs."""
    return ForcedBos(some_token_ids("bos_token_id", bos_token_id))


@dataclass
class ForcedEos:
    """An end as the last token that the length allows."""

    max_length: Whole
    eos_token_id: Array

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        return jnp.where(seen.length == self.max_length - 1, only(self.eos_token_id, scores), scores)


def forced_eos(max_length: Whole, eos_token_id: Tokens) -> ForcedEos:
    """Force one of `eos_token_id` where only one token fits into `max_length`, prompt included."""
    return ForcedEos(whole("max_length", max_length, 0), some_token_ids("eos_token_id", eos_token_id))


@dataclass
class SuppressTokens:
    """Tokens that never come."""

    suppress_tokens: Array

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        return jnp.where(named(self.suppress_tokens, scores.shape[-1]), -jnp.inf, scores)


def suppress_tokens(suppress_tokens: Tokens) -> SuppressTokens:
    """Ban tokens everywhere; ids outside the vocabulary, such as -1, ban nothing."""
    return SuppressTokens(token_ids("suppress_tokens", suppress_tokens))


@dataclass
class SuppressTokensAtBegin:
    """Tokens that do not come at the beginning."""

    begin_suppress_tokens: Array
    begin_index: Whole | None = None  # None: the first new token
    forced: Whole = 0

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        begin = self.begin_index
        if begin is None:
            prompt = seen.begin - seen.start
            begin = prompt + jnp.where(prompt > 1, 0, self.forced)
        banned = named(self.begin_suppress_tokens, scores.shape[-1])
        return jnp.where(banned & (seen.length == begin), -jnp.inf, scores)


def suppress_tokens_at_begin(
    begin_suppress_tokens: Tokens, begin_index: Whole | None = None, forced: Whole = 0
) -> SuppressTokensAtBegin:
    """Ban tokens where `begin_index` tokens were seen; by default where nothing new was.

    `forced` is how many tokens `forced_bos` puts after a prompt of one token: the beginning is after them.
    """
    index = None if begin_index is None else whole("begin_index", begin_index, 0)
    return SuppressTokensAtBegin(
        token_ids("begin_suppress_tokens", begin_suppress_tokens), index, whole("forced", forced, 0)
    )
