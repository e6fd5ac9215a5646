"""Whisper's rules: timestamps come in pairs and do not fall; and how likely it is that nobody speaks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import Whole, whole


@dataclass
class WhisperTimestamps:
    """Masks that make timestamps well formed: every segment opens and closes with one."""

    no_timestamps_token_id: Whole
    eos_token_id: Whole
    begin_index: Whole
    max_initial_timestamp_index: Whole | None = None
    detect_timestamp_from_logprob: bool = struct.field(pytree_node=False, default=True)

    @property
    def first(self) -> Any:
        """The token of 0.0 seconds."""
        return self.no_timestamps_token_id + 1

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        tokens = jnp.arange(scores.shape[-1])
        banned = (tokens == self.no_timestamps_token_id) | self._ill_formed(tokens, seen)
        at_begin = seen.length == self.begin_index
        banned |= at_begin & (tokens < self.first)
        if self.max_initial_timestamp_index is not None:
            banned |= at_begin & (tokens > self.first + self.max_initial_timestamp_index)
        scores = jnp.where(banned, -jnp.inf, scores)
        return self._time_if_likelier(scores, tokens) if self.detect_timestamp_from_logprob else scores

    def _ill_formed(self, tokens: jax.Array, seen: Seen) -> jax.Array:
        """Bool [B,V]: tokens that would break the pairs, or lie before the last timestamp."""
        at = jnp.arange(seen.tokens.shape[1])
        written = seen.length - self.begin_index
        stamps = (seen.tokens >= self.first) & seen.real & (at >= seen.start + self.begin_index)
        # Whether the last and the one before it are timestamps; before the beginning all counts as one.
        last = jnp.any(stamps & (at == seen.end - 1), axis=-1, keepdims=True)
        before = jnp.any(stamps & (at == seen.end - 2), axis=-1, keepdims=True) | (written < 2)
        latest = jnp.max(jnp.where(stamps, at, -1), axis=-1, keepdims=True)
        value = jnp.take_along_axis(seen.tokens, jnp.maximum(latest, 0), axis=-1)
        closing = last & ~before  # its twin, which opens the next segment, may be the same time
        lowest = jnp.where(latest < 0, self.first, jnp.where(closing, value, value + 1))
        time = tokens >= self.first
        return (last & before & time) | (closing & (tokens < self.eos_token_id)) | (time & (tokens < lowest))

    def _time_if_likelier(self, scores: jax.Array, tokens: jax.Array) -> jax.Array:
        """Only timestamps, if together they are likelier than every other token."""
        log_probabilities = jax.nn.log_softmax(scores, axis=-1)
        time = tokens >= self.first
        stamps = jax.nn.logsumexp(log_probabilities, axis=-1, keepdims=True, where=time)
        text = jnp.max(jnp.where(time, -jnp.inf, log_probabilities), axis=-1, keepdims=True)
        return jnp.where(~time & (stamps > text), -jnp.inf, scores)


def whisper_timestamps(
    no_timestamps_token_id: Whole,
    eos_token_id: Whole,
    begin_index: Whole,
    max_initial_timestamp_index: Whole | None = None,
    detect_timestamp_from_logprob: bool = True,
) -> WhisperTimestamps:
    """Whisper's timestamp rules (arXiv 2212.04356); `begin_index` counts the tokens before the transcript."""
    latest = max_initial_timestamp_index
    return WhisperTimestamps(
        whole("no_timestamps_token_id", no_timestamps_token_id, 0),
        whole("eos_token_id", eos_token_id, 0),
        whole("begin_index", begin_index, 0),
        None if latest is None else whole("max_initial_timestamp_index", latest, 0),
        bool(detect_timestamp_from_logprob),
    )


def no_speech_probability(scores: jax.Array, no_speech_token_id: Whole) -> jax.Array:
    """How likely `<|nospeech|>` is [B], given scores or log-probabilities [B,V] after the start of the transcript."""
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1)[..., no_speech_token_id]
