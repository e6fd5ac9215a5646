"""Scores that are numbers: infinities removed, log-probabilities normalised again."""

import jax
import jax.numpy as jnp

from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen


@dataclass
class RemoveInvalidValues:
    """0 for what is not a number, the extreme finite values for infinities."""

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        limits = jnp.finfo(scores.dtype)
        return jnp.nan_to_num(scores, nan=0.0, posinf=limits.max, neginf=limits.min)


def remove_invalid_values() -> RemoveInvalidValues:
    """Replace NaN and infinities, for models whose scores overflow."""
    return RemoveInvalidValues()


@dataclass
class RenormalizeLogits:
    """Log-probabilities that sum to one again after other transforms."""

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        return jax.nn.log_softmax(scores, axis=-1)


def renormalize_logits() -> RenormalizeLogits:
    """Take the log-softmax; beam search compares rows only if their scores are normalised."""
    return RenormalizeLogits()
