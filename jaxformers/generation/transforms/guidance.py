"""Classifier-free guidance: away from what the model says without the prompt."""

import jax
import jax.numpy as jnp

from jaxformers.core.errors import ConfigError
from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import Number, number


def guide(conditional: jax.Array, unconditional: jax.Array, scale: Number) -> jax.Array:
    """From the unconditional scores through the conditional ones and beyond (arXiv 2306.17806); 1 is no guidance."""
    return unconditional + (conditional - unconditional) * scale


def halves(scores: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Conditional and unconditional scores out of twice as many rows as are written."""
    if scores.shape[0] != 2 * rows:
        raise ConfigError(
            f"guidance takes twice as many rows of scores as rows of tokens, first the conditional ones, then the "
            f"unconditional ones; got {scores.shape[0]} rows of scores and {rows} of tokens"
        )
    return scores[:rows], scores[rows:]


@dataclass
class ClassifierFreeGuidance:
    """Scores [2B,V], conditional rows first, to guided scores [B,V]."""

    guidance_scale: Number

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        return guide(*halves(scores, seen.tokens.shape[0]), self.guidance_scale)


def classifier_free_guidance(guidance_scale: Number) -> ClassifierFreeGuidance:
    """Guide raw scores, as transformers' batched processor does for music and pictures (arXiv 2306.05284)."""
    return ClassifierFreeGuidance(number("guidance_scale", guidance_scale, lambda s: s > 1, "greater than 1"))


@dataclass
class TextGuidance:
    """Scores [2B,V], conditional rows first, to guided log-probabilities [B,V]."""

    guidance_scale: Number

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        log_probabilities = jax.nn.log_softmax(scores, axis=-1)
        conditional, unconditional = halves(log_probabilities, seen.tokens.shape[0])
        guided = guide(conditional, unconditional, self.guidance_scale)
        return jnp.where(self.guidance_scale == 1, conditional, guided)


def text_guidance(guidance_scale: Number) -> TextGuidance:
    """Guide log-probabilities, as `generate(guidance_scale=...)` does for text (arXiv 2306.17806)."""
    return TextGuidance(number("guidance_scale", guidance_scale, lambda s: s == s, "a number"))
