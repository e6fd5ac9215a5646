"""Prompt lookup: the draft is what followed the last tokens where they stood before in the same text."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.errors import ConfigError
from jaxformers.generation.drafting import Drafting, checked
from jaxformers.generation.outputs import GenerateOutput
from jaxformers.generation.request import Request
from jaxformers.generation.rounds import Draft, RoundRules, RoundState
from jaxformers.generation.seen import Seen
from jaxformers.generation.transform import LogitsTransform
from jaxformers.generation.verify import matching

NGRAM = 2  # longest n-gram that is looked for where the config says none


@dataclass(frozen=True)
class Lookup:
    """Looks for the last tokens, `size` at most; the longest n-gram that is found counts, at its first place."""

    size: int = NGRAM

    def draft(
        self, aid: Any, state: RoundState, transforms: LogitsTransform, rules: RoundRules, width: int, most: jax.Array
    ) -> Draft:
        """What stood behind it."""
        seen = state.text.seen
        found, place = self.find(seen)
        columns = jnp.minimum(place + jnp.arange(width), seen.tokens.shape[1] - 1)
        count = jnp.where(found, jnp.minimum(most, seen.end - place), 0)
        return Draft(seen.tokens[0, columns], count)

    def find(self, seen: Seen) -> tuple[jax.Array, jax.Array]:
        """Whether there is such a place, and the column after it."""
        tokens, at = seen.tokens[0], jnp.arange(seen.tokens.shape[1])
        same, found, place = jnp.ones(len(tokens), bool), jnp.zeros((), bool), jnp.zeros((), jnp.int32)
        for back in range(self.size):
            # same[c]: the back + 1 tokens that end in column c are the last of the text
            behind = jnp.where(at >= back, jnp.roll(tokens, back), -1)
            same = same & (behind == tokens[seen.end - 1 - back]) & (at - back >= seen.start) & (at < seen.end - 1)
            here = jnp.any(same)
            place = jnp.where(here, jnp.argmax(same).astype(jnp.int32) + 1, place)
            found = found | here
        return found, place


def prompt_lookup(request: Request) -> GenerateOutput | jax.Array:
    """The mode of prompt lookup. Greedy search and sampling write the same tokens as without it, with the same key."""
    config = request.config
    size = NGRAM if config.max_matching_ngram_size is None else config.max_matching_ngram_size
    for name, value in (
        ("prompt_lookup_num_tokens", config.prompt_lookup_num_tokens),
        ("max_matching_ngram_size", size),
    ):
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be 1 or more")
    request = checked(request, "prompt_lookup_num_tokens")
    return Drafting(Lookup(size), matching, config.prompt_lookup_num_tokens).answer(request)
