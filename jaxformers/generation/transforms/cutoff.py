"""Cut-offs by information: typical, epsilon and eta sampling."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import Number, number, size
from jaxformers.generation.transforms.threshold import fitting_key, next_key, ordinal
from jaxformers.generation.transforms.vocabulary import best, least_of_best

BETWEEN = "a float > 0 and < 1"


def between(value: Any) -> Any:
    """Whether a number is above 0 and below 1."""
    return (value > 0) & (value < 1)


def entropy(scores: jax.Array) -> jax.Array:
    """Nats [B,1]; tokens that cannot come add nothing."""
    log_probabilities = jax.nn.log_softmax(scores, axis=-1)
    probabilities = jnp.exp(log_probabilities)
    return jnp.sum(jnp.where(probabilities > 0, -probabilities * log_probabilities, 0), axis=-1, keepdims=True)


@dataclass
class Typical:
    """Only tokens whose surprise is closest to the expected one, up to `mass`."""

    mass: Number
    min_tokens_to_keep: int = struct.field(pytree_node=False, default=1)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        surprise = -jax.nn.log_softmax(scores, axis=-1)
        distance = jnp.abs(surprise - entropy(scores))
        keys = ordinal(distance)
        last = next_key(keys, fitting_key(keys, jax.nn.softmax(scores, axis=-1), lambda mass: mass < self.mass))
        gone = keys > last
        if self.min_tokens_to_keep > 1:
            gone &= ~best(-distance, self.min_tokens_to_keep)
        return jnp.where(gone, -jnp.inf, scores)


def typical(mass: Number = 0.9, min_tokens_to_keep: int = 1) -> Typical:
    """Keep the most typical tokens of total probability `mass` (arXiv 2202.00666)."""
    return Typical(number("typical_p", mass, between, BETWEEN), size("min_tokens_to_keep", min_tokens_to_keep))


@dataclass
class EpsilonCutoff:
    """Without tokens less likely than `epsilon`."""

    epsilon: Number
    min_tokens_to_keep: int = struct.field(pytree_node=False, default=1)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        gone = jax.nn.softmax(scores, axis=-1) < self.epsilon
        gone &= scores < least_of_best(scores, self.min_tokens_to_keep)
        return jnp.where(gone, -jnp.inf, scores)


def epsilon_cutoff(epsilon: Number, min_tokens_to_keep: int = 1) -> EpsilonCutoff:
    """Drop tokens whose probability is below `epsilon` (arXiv 2210.15191)."""
    epsilon = number("epsilon_cutoff", epsilon, between, BETWEEN)
    return EpsilonCutoff(epsilon, size("min_tokens_to_keep", min_tokens_to_keep))


@dataclass
class EtaCutoff:
    """Without tokens less likely than a bound that falls with the entropy."""

    epsilon: Number
    min_tokens_to_keep: int = struct.field(pytree_node=False, default=1)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        bound = jnp.minimum(self.epsilon, jnp.sqrt(self.epsilon) * jnp.exp(-entropy(scores)))
        gone = jax.nn.softmax(scores, axis=-1) < bound
        gone &= scores < least_of_best(scores, self.min_tokens_to_keep)
        return jnp.where(gone, -jnp.inf, scores)


def eta_cutoff(epsilon: Number, min_tokens_to_keep: int = 1) -> EtaCutoff:
    """Drop tokens less likely than min(epsilon, sqrt(epsilon) * exp(-entropy)) (arXiv 2210.15191)."""
    epsilon = number("eta_cutoff", epsilon, between, BETWEEN)
    return EtaCutoff(epsilon, size("min_tokens_to_keep", min_tokens_to_keep))
