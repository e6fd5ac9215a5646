"""Seen: what has been written so far, which is all that a logits transform may look at besides the scores."""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Seen:
    """Tokens of prompt and continuation in one buffer of static length; only columns from `start` to `end` are real.

    A prompt is moved to the right of its bucket, so `start` says how many columns are not the caller's. Padding that
    the caller gave lies within the real columns, as it does in transformers' input_ids.
    """

    tokens: jax.Array  # Int [B,L]
    start: jax.Array  # Int []: first real column
    begin: jax.Array  # Int []: column of the first new token
    end: jax.Array  # Int []: column that the next token will take
    encoder_tokens: jax.Array | None = None  # Int [B,S]: what an encoder read, or the prompt of a decoder
    encoder_real: jax.Array | None = None  # Bool [S]: columns of encoder_tokens that the caller gave

    @property
    def real(self) -> jax.Array:
        """Which columns hold tokens, Bool [L]."""
        at = jnp.arange(self.tokens.shape[1])
        return (at >= self.start) & (at < self.end)

    @property
    def length(self) -> jax.Array:
        """How many tokens there are, prompt included: transformers' cur_len."""
        return self.end - self.start

    @property
    def new(self) -> jax.Array:
        """How many tokens were generated."""
        return self.end - self.begin
