"""Warps that reshape a distribution around its best tokens: temperature, top-k, top-p, min-p, top-H."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import Number, number, positive, size
from jaxformers.generation.transforms.threshold import fitting_key, next_key, ordinal
from jaxformers.generation.transforms.vocabulary import best, least_of_best, named_by_row

TOP_H_TOKENS = 100  # transformers looks at no more, as the paper advises


@dataclass
class Temperature:
    """Scores divided by a temperature."""

    temperature: Number

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        return scores / self.temperature


def temperature(temperature: Number) -> Temperature:
    """Below 1 the distribution gets sharper, above 1 flatter. Traced: a new value does not recompile."""
    expected = "a strictly positive float (for greedy decoding set `do_sample=False`)"
    return Temperature(number("temperature", temperature, positive, expected))


@dataclass
class TopK:
    """Only the best `top_k` tokens, and those equal to the last of them."""

    top_k: int = struct.field(pytree_node=False)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        return jnp.where(scores < least_of_best(scores, self.top_k), -jnp.inf, scores)


def top_k(top_k: int, min_tokens_to_keep: int = 1) -> TopK:
    """Keep the `top_k` best tokens (arXiv 1805.04833). A size: a new value recompiles."""
    return TopK(max(size("top_k", top_k), size("min_tokens_to_keep", min_tokens_to_keep)))


@dataclass
class TopP:
    """Without the least likely tokens that together weigh no more than `rest` = 1 - top_p."""

    rest: Number
    min_tokens_to_keep: int = struct.field(pytree_node=False, default=1)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        keys, probabilities = ordinal(scores), jax.nn.softmax(scores, axis=-1)
        last = fitting_key(keys, probabilities, lambda mass: mass <= self.rest)
        gone = (keys <= last) | self._some_of_the_next(keys, probabilities, last)
        return jnp.where(gone & ~best(scores, self.min_tokens_to_keep), -jnp.inf, scores)

    def _some_of_the_next(self, keys: jax.Array, probabilities: jax.Array, last: jax.Array) -> jax.Array:
        """Tokens equal to each other, where all would be too much: the last go. torch's sort leaves it open which."""
        equal = keys == next_key(keys, last)
        mass = jnp.sum(jnp.where(keys <= last, probabilities, 0), axis=-1, keepdims=True)
        each = jnp.max(jnp.where(equal, probabilities, 0), axis=-1, keepdims=True)
        count = jnp.where(each > 0, jnp.floor((self.rest - mass) / each), 0)  # how many of them go

        def some(equal: jax.Array) -> jax.Array:
            return equal & (jnp.cumsum(equal, axis=-1) > jnp.sum(equal, axis=-1, keepdims=True) - count)

        return lax.cond(jnp.any(count >= 1), some, jnp.zeros_like, equal)


def top_p(top_p: Number, min_tokens_to_keep: int = 1) -> TopP:
    """Keep the fewest best tokens whose probabilities reach `top_p` (nucleus sampling, arXiv 1904.09751)."""
    top_p = number("top_p", top_p, lambda p: (p >= 0) & (p <= 1), "a float between 0 and 1")
    return TopP(1 - top_p, size("min_tokens_to_keep", min_tokens_to_keep))


@dataclass
class MinP:
    """Only tokens at least `min_p` times as likely as the best one."""

    min_p: Number
    min_tokens_to_keep: int = struct.field(pytree_node=False, default=1)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        probabilities = jax.nn.softmax(scores, axis=-1)
        gone = probabilities < self.min_p * probabilities.max(-1, keepdims=True)
        if self.min_tokens_to_keep > 1:
            gone &= ~best(probabilities, self.min_tokens_to_keep)
        return jnp.where(gone, -jnp.inf, scores)


def min_p(min_p: Number, min_tokens_to_keep: int = 1) -> MinP:
    """Keep tokens whose probability reaches `min_p` times the greatest one (arXiv 2407.01082)."""
    min_p = number("min_p", min_p, lambda p: (p >= 0) & (p <= 1), "a float in the [0, 1] interval")
    return MinP(min_p, size("min_tokens_to_keep", min_tokens_to_keep))


@dataclass
class TopH:
    """Only the best tokens whose entropy stays within `top_h` of that of the best hundred."""

    top_h: Number

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        top, tokens = lax.top_k(scores, min(TOP_H_TOKENS, scores.shape[-1]))
        log_probabilities = jax.nn.log_softmax(top, axis=-1)
        probabilities = jnp.exp(log_probabilities)
        terms = jnp.where(probabilities > 0, -probabilities * log_probabilities, 0)
        limit = self.top_h * terms.sum(-1, keepdims=True)
        chosen = (jnp.cumsum(terms, axis=-1) <= limit) & (probabilities > 0)
        chosen = chosen.at[..., 0].set(True)
        return jnp.where(named_by_row(tokens, chosen, scores.shape[-1]), scores, -jnp.inf)


def top_h(top_h: Number) -> TopH:
    """Keep the best tokens up to a share `top_h` of the entropy (arXiv 2509.02510)."""
    return TopH(number("top_h", top_h, within_one, "in the range (0, 1]"))


def within_one(value: Any) -> Any:
    """Whether a number is above 0 and at most 1."""
    return (value > 0) & (value <= 1)
