"""The watermark of Kirchenbauer et al.: before each token, a keyed part of the vocabulary is made likelier.

Which part is drawn with torch's CPU generator, on the host, so a text marked here is found by transformers' detector
on a CPU and the other way round. (transformers on a GPU draws other numbers, and so other lists.)
"""

import dataclasses
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from jaxformers.core.errors import ConfigError
from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms import torch_random
from jaxformers.generation.transforms.arguments import Number, number, size
from jaxformers.generation.transforms.vocabulary import latest

TABLE_SIZE = 1_000_003  # the prime of the reference implementation
CANDIDATES = 40  # how many of the best tokens `selfhash` tries


@dataclasses.dataclass(frozen=True)
class Greenlists:
    """What decides which tokens are green after a context: hashable, the same for writing and detecting."""

    vocab_size: int
    greenlist_ratio: float
    hashing_key: int
    seeding_scheme: str
    context_width: int

    @property
    def greenlist_size(self) -> int:
        """How many tokens are green."""
        return int(self.vocab_size * self.greenlist_ratio)

    def seed(self, context: np.ndarray) -> int:
        """The seed of a context; the last `context_width` tokens count."""
        if self.seeding_scheme == "lefthash":
            seed = self.hashing_key * int(context[-1])
        else:
            hashed = fixed_table(self.hashing_key)[context[-self.context_width :] % TABLE_SIZE] + 1
            seed = int((self.hashing_key * hashed * hashed[-1]).min())  # wraps around at 64 bits, as in torch
        return seed % (2**64 - 1)

    def exchanges(self, context: np.ndarray) -> np.ndarray:
        """The steps of the shuffle that bring the green tokens to the front."""
        return torch_random.exchanges(self.seed(context), self.vocab_size, self.greenlist_size)

    def green(self, context: np.ndarray) -> np.ndarray:
        """Bool [V]: the green tokens after a context."""
        packed = packed_green(self, self.seed(context))
        return np.unpackbits(packed, count=self.vocab_size).astype(bool)

    def is_green(self, context: np.ndarray, token: int) -> bool:
        """Whether one token is green after a context."""
        return torch_random.comes_first(token, self.exchanges(context))


@lru_cache(maxsize=8)
def fixed_table(hashing_key: int) -> np.ndarray:
    """The permutation that hashes tokens, Int64 [TABLE_SIZE]."""
    return torch_random.permutation(hashing_key, TABLE_SIZE)


@lru_cache(maxsize=4096)
def packed_green(lists: Greenlists, seed: int) -> np.ndarray:
    """The green tokens of one seed in bits: 19 KB for a vocabulary of 150 thousand."""
    steps = torch_random.exchanges(seed, lists.vocab_size, lists.greenlist_size)
    green = np.zeros(lists.vocab_size, bool)
    green[torch_random.shuffled(lists.vocab_size, steps)[: lists.greenlist_size]] = True
    return np.packbits(green)


@dataclass
class Watermark:
    """A bias on the green tokens; a host callback draws them, in compiled loops as well."""

    bias: Number
    lists: Greenlists = struct.field(pytree_node=False)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        width = self.lists.context_width
        if width > seen.tokens.shape[1]:
            return scores
        added = self._left(scores, seen) if self.lists.seeding_scheme == "lefthash" else self._self(scores, seen)
        return jnp.where(seen.length >= width, scores + added, scores)

    def _left(self, scores: jax.Array, seen: Seen) -> jax.Array:
        """The bias where the token before decides."""
        shape = jax.ShapeDtypeStruct((scores.shape[0], self.lists.vocab_size), bool)
        last = latest(seen, 1)
        green = jax.pure_callback(partial(green_of_rows, self.lists), shape, last, vmap_method="sequential")
        added = jnp.where(green, jnp.asarray(self.bias, scores.dtype), 0)
        missing = scores.shape[-1] - self.lists.vocab_size
        return jnp.pad(added, ((0, 0), (0, missing)))

    def _self(self, scores: jax.Array, seen: Seen) -> jax.Array:
        """The bias where a token takes part in its own seed: the best ones are tried."""
        candidates = lax.top_k(scores, min(CANDIDATES, self.lists.vocab_size))[1]
        context = latest(seen, self.lists.context_width - 1)
        shape = jax.ShapeDtypeStruct(candidates.shape, bool)
        try_them = partial(green_candidates, self.lists)
        green = jax.pure_callback(try_them, shape, context, candidates, vmap_method="sequential")
        rows = jnp.arange(scores.shape[0])[:, None]
        return jnp.zeros_like(scores).at[rows, candidates].add(jnp.where(green, self.bias, 0.0))


def green_of_rows(lists: Greenlists, contexts: Any) -> np.ndarray:
    """Bool [B,V]: the green tokens after each context [B,W]."""
    return np.stack([lists.green(context) for context in np.asarray(contexts, np.int64)])


def green_candidates(lists: Greenlists, contexts: Any, candidates: Any) -> np.ndarray:
    """Bool [B,C]: which candidates are green when they end the context that decides about them."""
    contexts, candidates = np.asarray(contexts, np.int64), np.asarray(candidates, np.int64)
    green = np.zeros(candidates.shape, bool)
    for row, column in np.ndindex(candidates.shape):
        token = candidates[row, column]
        green[row, column] = lists.is_green(np.append(contexts[row], token), int(token))
    return green


def watermark(
    vocab_size: int,
    greenlist_ratio: float = 0.25,
    bias: Number = 2.0,
    hashing_key: int = 15485863,
    seeding_scheme: str = "lefthash",
    context_width: int = 1,
) -> Watermark:
    """Mark a text so that `detect_watermark` finds it (arXiv 2301.10226, 2306.04634).

    `lefthash` seeds with the last token; `selfhash` with `context_width` tokens, of which the new one is the last.
    """
    if seeding_scheme not in ("selfhash", "lefthash"):
        raise ConfigError(f"seeding_scheme has to be `selfhash` or `lefthash`, but is {seeding_scheme!r}")
    if not 0.0 < greenlist_ratio < 1.0:
        raise ConfigError(f"greenlist_ratio has to be between 0.0 and 1.0, exclusively, but is {greenlist_ratio}")
    width = size("context_width", context_width)
    lists = Greenlists(size("vocab_size", vocab_size), float(greenlist_ratio), int(hashing_key), seeding_scheme, width)
    return Watermark(number("bias", bias, lambda b: b == b, "a number"), lists)
