"""A transform and transformers' processor on the same tokens and scores."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxformers.generation.seen import Seen
from jaxformers.generation.transform import Chain, chain

VOCABULARY = 37
BUFFER = 24
LEFT = 3  # columns of a bucket that nobody gave


def random_scores(rows: int, seed: int = 0, kind: str = "plain", vocabulary: int = VOCABULARY) -> np.ndarray:
    """Scores [B,V]: plain, with ties, or with tokens that are impossible already."""
    scores = np.random.default_rng(seed).normal(scale=3, size=(rows, vocabulary)).astype(np.float32)
    if kind == "ties":
        scores = np.round(scores)
    if kind == "impossible":
        scores[np.random.default_rng(seed + 1).random(scores.shape) < 0.4] = -np.inf
    return scores


def random_tokens(rows: int, length: int, seed: int = 0, vocabulary: int = VOCABULARY) -> np.ndarray:
    """Tokens [B,T] of which many repeat."""
    return np.random.default_rng(seed).integers(0, vocabulary, (rows, length)) // 3 * 3 % vocabulary


def seen_of(tokens: np.ndarray, prompt: int, encoder: np.ndarray | None = None, junk: int = 0) -> Seen:
    """Tokens in a bucket; the columns that are not real hold `junk` or random tokens, which must not matter."""
    rows, length = tokens.shape
    buffer = np.random.default_rng(junk).integers(0, VOCABULARY, (rows, BUFFER))
    buffer[:, LEFT : LEFT + length] = tokens
    read = real = None
    if encoder is not None:
        padding = np.random.default_rng(junk).integers(0, VOCABULARY, (len(encoder), 4))
        read = jnp.asarray(np.concatenate([encoder, padding], axis=1), jnp.int32)
        real = jnp.arange(read.shape[1]) < encoder.shape[1]
    places = jnp.asarray(LEFT), jnp.asarray(LEFT + prompt), jnp.asarray(LEFT + length)
    return Seen(jnp.asarray(buffer, jnp.int32), *places, read, real)


@jax.jit
def run(transform: Any, scores: Any, seen: Seen) -> jax.Array:
    """The transform, compiled; its numbers are arguments, so that one program serves many."""
    return transform(jnp.asarray(scores), seen)


def compiled(transforms: Iterable[Any]) -> Chain:
    """A chain of which each transform is a program of its own, or every new chain would be compiled."""
    return chain(*(lambda scores, seen, one=one: run(one, scores, seen) for one in transforms))


def torched(processor: Any, scores: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """What transformers' processor makes of the scores."""
    return processor(torch.tensor(tokens, dtype=torch.long), torch.tensor(scores)).numpy()


def agree(
    ours: Any,
    theirs: Callable[[int], Any],
    *,
    kinds: tuple[str, ...] = ("plain",),
    prompt: int = 4,
    lengths: tuple[int, ...] = (4, 5, 9, 17),
    encoder: np.ndarray | None = None,
    rows: int = 3,
    rtol: float = 1e-6,
) -> None:
    """The same tokens survive and have the same scores. `theirs(prompt length)` makes the processor."""
    for number, length in enumerate(lengths):
        for kind in kinds:
            tokens, scores = random_tokens(rows, length, number), random_scores(rows, number, kind)
            got = np.asarray(run(ours, scores, seen_of(tokens, min(prompt, length), encoder, junk=number)))
            want = torched(theirs(min(prompt, length)), scores, tokens)
            # Which of equal tokens survive, where only some of them may, torch's sort leaves open.
            same(*((np.sort(got), np.sort(want)) if kind == "ties" else (got, want)), rtol)


def same(got: Any, want: np.ndarray, rtol: float = 1e-6) -> None:
    """Equal survivors bit for bit, equal scores within rounding."""
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)
