"""A second look at what was written, many tokens at once: how likely each token was, and where its heads listened.

The loop that writes keeps neither scores nor attention of its steps. Reading the finished text again costs about as
much as reading a prompt, and leaves the loop one compiled program.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.state import Cache
from jaxformers.generation.buckets import length_bucket
from jaxformers.generation.prompts import more_rows
from jaxformers.generation.request import Request
from jaxformers.generation.seen import Seen
from jaxformers.generation.transform import LogitsTransform
from jaxformers.generation.writer import Prompt, Writer
from jaxformers.hub.model import Model

CHUNK = 64  # tokens read at once
Heads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Review:
    """Of N new tokens: log-probabilities [B,N] after the transforms, and weights [B,A,N-1,S] of A heads, if wanted."""

    logprobs: np.ndarray
    weights: np.ndarray | None


def review(request: Request, sequences: np.ndarray, heads: Heads, temperature: float) -> Review:
    """Read sequences [B,P+N] again that answer a request. heads: (layer, head) to watch; none for no weights.

    Scores are multiplied by `temperature` first, which takes a warp by it back.
    """
    start, width = int(request.prompt.start), request.prompt.width
    new = np.asarray(sequences)[:, width - start :]
    chunk = min(CHUNK, length_bucket(new.shape[1]))
    columns = -(-new.shape[1] // chunk) * chunk
    tokens = more_rows(np.pad(new, ((0, 0), (0, columns - new.shape[1]))), len(request.prompt.tokens)).astype(np.int32)
    writer = dataclasses.replace(request.writer, record=("attentions",) if heads else ())
    scores, cache = reread(request.model, writer, request.prompt, capacity=width + columns)
    seen = request.prompt.seen(width + columns)
    seen = seen.replace(tokens=jnp.concatenate([jnp.asarray(request.prompt.tokens), tokens], axis=1))
    found, watched = [], []
    for at in range(0, columns, chunk):
        scores, cache, logprobs, weights = judge(
            request.model,
            writer,
            scores,
            cache,
            tokens[:, at : at + chunk],
            seen.replace(end=seen.begin + at),
            request.transforms,
            jnp.float32(temperature),
            heads=heads,
            normal=request.config.num_beams > 1,
        )
        found.append(np.asarray(logprobs))
        watched.append(None if weights is None else np.asarray(weights))
    rows, count = len(new), new.shape[1]
    attention = np.concatenate(watched, axis=2)[:rows, :, : count - 1] if heads else None
    return Review(np.concatenate(found, axis=1)[:rows, :count], attention)


@partial(jax.jit, static_argnames=("writer", "capacity"))
def reread(model: Model, writer: Writer, prompt: Prompt, *, capacity: int) -> tuple[jax.Array, Cache]:
    """Scores [B,V] of the first new token, before the transforms, and the cache."""
    scores, cache, _ = writer.prefill(model, prompt, capacity)
    return scores, cache


@partial(jax.jit, static_argnames=("writer", "heads", "normal"), donate_argnames=("cache",))
def judge(
    model: Model,
    writer: Writer,
    ahead: jax.Array,
    cache: Cache,
    tokens: jax.Array,
    seen: Seen,
    transforms: LogitsTransform,
    temperature: jax.Array,
    *,
    heads: Heads,
    normal: bool,
) -> tuple[jax.Array, Cache, jax.Array, Any]:
    """Read tokens [B,C]. ahead: scores [B,V] of the first of them.

    normal: whether transforms see log-probabilities, as those of beams do.
    Returns the scores after the last one, the cache, log-probabilities [B,C] and weights [B,A,C,S] or None.
    """
    scores, cache, records = writer.step(model, tokens, cache)
    each = jnp.concatenate([ahead[:, None], scores[:, :-1]], axis=1)

    def one(seen: Seen, given: tuple[jax.Array, jax.Array]) -> tuple[Seen, jax.Array]:
        scores, token = given
        scores = transforms(jax.nn.log_softmax(scores, axis=-1) if normal else scores, seen)
        logprobs = jax.nn.log_softmax(scores * temperature, axis=-1)
        return seen.replace(end=seen.end + 1), jnp.take_along_axis(logprobs, token[:, None], axis=-1)[:, 0]

    _, logprobs = jax.lax.scan(one, seen, (each.transpose(1, 0, 2), tokens.T))
    weights = None
    if heads:
        layers = records["cross_attentions"]
        weights = jnp.stack([layers[layer][:, head] for layer, head in heads], axis=1)
    return scores[:, -1], cache, logprobs.T, weights
