"""Biases on sequences of tokens: a wish, or with minus infinity a ban."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import Array, Tokens, token_ids
from jaxformers.generation.transforms.vocabulary import latest


@dataclass
class Endings:
    """Sequences of one length: what the last token's score gains once all others stand at the end."""

    prefixes: Array  # Int [N,P]
    last: Array  # Int [N]
    bias: Array  # Float [N]

    def __call__(self, added: jax.Array, seen: Seen) -> jax.Array:
        length = self.prefixes.shape[1]
        if length > seen.tokens.shape[1]:
            return added
        matches = (latest(seen, length)[:, None] == self.prefixes).all(-1) & (seen.length >= length)
        return added.at[:, self.last].add(jnp.where(matches, self.bias, 0.0), mode="drop")


@dataclass
class SequenceBias:
    """Scores plus the biases of the sequences that the next token would complete. All tables are traced."""

    endings: tuple[Endings, ...]  # one for each length

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        added = jnp.zeros_like(scores)
        for group in self.endings:
            added = group(added, seen)
        return scores + added


@dataclass
class BadWords(SequenceBias):
    """Sequences that must not be completed."""


def sequence_bias(sequence_bias: Any, vocab_size: int | None = None) -> SequenceBias:
    """Add biases to sequences: {(tokens, ...): bias} or [[[tokens, ...], bias], ...].

    The bias goes to the last token of a sequence when the others were just written. With `vocab_size` tokens outside
    the vocabulary are refused; they could never be written.
    """
    biases = validated(sequence_bias)
    refuse_unknown(biases, vocab_size)
    return SequenceBias(by_length(biases))


def bad_words(
    bad_words_ids: Sequence[Sequence[int]], eos_token_id: Tokens | None = None, vocab_size: int | None = None
) -> BadWords:
    """Ban sequences of tokens; the end of the text cannot be banned and is left out."""
    if not isinstance(bad_words_ids, list | tuple) or not bad_words_ids:
        raise ConfigError(f"`bad_words_ids` has to be a non-empty list, but is {bad_words_ids}")
    if not all(isinstance(word, list | tuple) and word and are_tokens(word) for word in bad_words_ids):
        raise ConfigError(f"`bad_words_ids` has to hold non-empty lists of positive integers, but is {bad_words_ids}")
    ends = [] if eos_token_id is None else [(int(end),) for end in np.asarray(token_ids("eos_token_id", eos_token_id))]
    biases = {tuple(word): -np.inf for word in bad_words_ids if tuple(word) not in ends}
    refuse_unknown(biases, vocab_size)
    return BadWords(by_length(biases))


def are_tokens(sequence: Sequence[Any]) -> bool:
    """Whether all are integers, none negative."""
    return all(isinstance(token, int | np.integer) and token >= 0 for token in sequence)


def validated(sequence_bias: Any) -> dict[tuple[int, ...], float]:
    """The biases as a mapping."""
    form = "a non-empty mapping {(tokens, ...): bias} or a non-empty list [[[tokens, ...], bias], ...]"
    if not isinstance(sequence_bias, Mapping | list | tuple) or not sequence_bias:
        raise ConfigError(f"`sequence_bias` has to be {form}, but is {sequence_bias}")
    pairs: list[Any] = list(sequence_bias.items() if isinstance(sequence_bias, Mapping) else sequence_bias)
    for pair in pairs:
        good = isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], tuple | list) and pair[0]
        if not good or not are_tokens(pair[0]) or not isinstance(pair[1], float | np.floating):
            raise ConfigError(f"`sequence_bias` has to be {form} of positive integers and floats, but holds {pair}")
    return {tuple(sequence): float(bias) for sequence, bias in pairs}


def refuse_unknown(biases: Mapping[tuple[int, ...], float], vocab_size: int | None) -> None:
    """Raise ConfigError if a token is not in the vocabulary."""
    unknown = sorted({t for sequence in biases for t in sequence if vocab_size is not None and t >= vocab_size})
    if unknown:
        raise ConfigError(f"the vocabulary has {vocab_size} tokens, but these were biased or banned: {unknown}")


def by_length(biases: Mapping[tuple[int, ...], float]) -> tuple[Endings, ...]:
    """Tables of equal sequence length, so that one comparison serves a table."""
    groups: dict[int, list[tuple[tuple[int, ...], float]]] = {}
    for sequence, bias in biases.items():
        groups.setdefault(len(sequence), []).append((sequence, bias))
    return tuple(
        Endings(
            np.asarray([sequence[:-1] for sequence, _ in group], np.int32).reshape(len(group), length - 1),
            np.asarray([sequence[-1] for sequence, _ in group], np.int32),
            np.asarray([bias for _, bias in group], np.float32),
        )
        for length, group in sorted(groups.items())
    )
