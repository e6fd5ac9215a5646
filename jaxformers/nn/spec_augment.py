"""SpecAugment: spans hidden at random, in time or over features. Source: arXiv:1904.08779."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Spans:
    """Spans of `length` that cover about the fraction `rate` of a row, at least `least` of them; spans may overlap."""

    rate: float
    length: int
    least: int = 0

    def __call__(self, key: jax.Array, size: int, lengths: jax.Array) -> jax.Array:
        """Bool [B,size]: what to hide in rows of which the first `lengths` [B] entries are real."""
        if not 1 <= self.length <= size:
            raise ValueError(f"spans of {self.length} do not fit {size} entries; change the mask lengths in the config")
        rounding, order = jax.random.split(key)
        # One draw rounds all rows' counts, so that the expected count is exact.
        counts = self.rate * lengths / self.length + jax.random.uniform(rounding)
        counts = jnp.clip(jnp.maximum(counts.astype(jnp.int32), self.least), 0, size // self.length)
        starts = jnp.maximum(lengths - (self.length - 1), 0)
        counts = jnp.minimum(counts, starts)
        place = jnp.arange(size)
        draw = jnp.where(place < starts[:, None], jax.random.uniform(order, (len(lengths), size)), 2.0)
        chosen = jnp.argsort(jnp.argsort(draw, axis=1), axis=1) < counts[:, None]
        begun = jnp.cumsum(chosen, axis=1)
        ended = jnp.pad(begun, ((0, 0), (self.length, 0)))[:, :size]
        return begun > ended


@dataclass(frozen=True)
class SpecAugment:
    """What training hides of a sequence; a rate of zero hides nothing."""

    time: Spans
    features: Spans
