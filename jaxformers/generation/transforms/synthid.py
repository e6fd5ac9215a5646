"""SynthID Text: a watermark that favours tokens whose keyed g-values, flipped by n-gram, win a tournament."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from jaxformers.core.errors import ConfigError
from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms import hash64, torch_random
from jaxformers.generation.transforms.arguments import Array, Whole, size, whole

LARGEST_TABLE = 2**24


@dataclass
class SynthIDWatermark:
    """Log-probabilities after a tournament of as many rounds as there are keys.

    All state follows from the new tokens. transformers' own does too, except in beam search, where its contexts are not
    reordered with the beams; here they are.
    """

    keys: Array  # UInt32 [D,2]: 64-bit keys
    sampling_table: Array  # UInt8 [S]: what g-values are looked up in
    ngram_len: int = struct.field(pytree_node=False)
    context_history_size: Whole
    skipped: Whole = 0  # how many first tokens are not marked
    debug_mode: bool = struct.field(pytree_node=False, default=False)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        scores = jnp.ones_like(scores) if self.debug_mode else scores
        contexts = self._contexts(seen)
        current = jax.tree.map(lambda half: lax.dynamic_index_in_dim(half, seen.end, 1), contexts)
        marked = self._tournament(scores, current)
        unmarked = self._repeated(contexts, current, seen) | (seen.new < self.skipped)
        return jnp.where(unmarked, scores, marked)

    def _contexts(self, seen: Seen) -> hash64.Pair:
        """Hashes [B,L+1] of the n-1 tokens before each column; zeros stand before the first new token."""
        width, columns = self.ngram_len - 1, seen.tokens.shape[1]
        new = (jnp.arange(columns) >= seen.begin) & (jnp.arange(columns) < seen.end)
        padded = jnp.pad(jnp.where(new, seen.tokens, 0), ((0, 0), (width, 0)))
        hashed = hash64.start((padded.shape[0], columns + 1))
        for place in range(width):
            hashed = hash64.accumulate(hashed, hash64.of_tokens(padded[:, place : place + columns + 1]))
        return hashed

    def _repeated(self, contexts: hash64.Pair, current: hash64.Pair, seen: Seen) -> jax.Array:
        """Bool [B,1]: whether the context stood before one of the last tokens that were marked."""
        at = jnp.arange(seen.tokens.shape[1] + 1)
        recent = (at >= seen.begin + self.skipped) & (at < seen.end) & (at >= seen.end - self.context_history_size)
        repeated = jnp.any(hash64.equal(contexts, current) & recent, axis=-1, keepdims=True)
        # A history that is not full yet holds zeros.
        unfilled = seen.new - self.skipped < self.context_history_size
        return repeated | (unfilled & (current.high == 0) & (current.low == 0))

    def _tournament(self, scores: jax.Array, context: hash64.Pair) -> jax.Array:
        """Scores [B,V] after one round for each key."""
        ngrams = hash64.accumulate(context, hash64.of_tokens(jnp.arange(scores.shape[-1])[None]))

        def fight(probabilities: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            # They are read twice; without the barrier XLA's CPU compiler looks each of them up twice, inside the sum.
            values = lax.optimization_barrier(g_value(ngrams, key, self.sampling_table)).astype(probabilities.dtype)
            mass = jnp.sum(values * probabilities, axis=-1, keepdims=True)
            return probabilities * (1 + values - mass), None

        probabilities, _ = lax.scan(fight, jax.nn.softmax(scores, axis=-1), jnp.asarray(self.keys))
        logs = jnp.log(probabilities)
        return jnp.where(jnp.isfinite(logs), logs, jnp.finfo(logs.dtype).min)


def g_value(ngrams: hash64.Pair, key: jax.Array, table: Array) -> jax.Array:
    """Whether n-grams win the round of one key, UInt8 of their shape."""
    hashed = hash64.accumulate(ngrams, hash64.Pair(key[0], key[1]))
    return jnp.asarray(table).at[hash64.modulo(hashed, table.shape[0])].get(mode="promise_in_bounds")


def synthid_watermark(
    ngram_len: int,
    keys: Sequence[int],
    context_history_size: Whole = 1024,
    sampling_table_seed: int = 0,
    sampling_table_size: int = 2**16,
    skip_first_ngram_calls: bool = False,
    debug_mode: bool = False,
) -> SynthIDWatermark:
    """Mark a text with secret keys (SynthID Text, Nature 634, 818-823, doi 10.1038/s41586-024-08025-4)."""
    size("ngram_len", ngram_len, 2)
    if not len(keys) or not all(isinstance(key, int | np.integer) for key in keys):
        raise ConfigError(f"`keys` has to be a non-empty list of integers, but is {keys}")
    if size("sampling_table_size", sampling_table_size) > LARGEST_TABLE:
        raise ConfigError(f"`sampling_table_size` has to be at most 2**24, but is {sampling_table_size}")
    return SynthIDWatermark(
        keys=hash64.pair(list(keys)),
        sampling_table=torch_random.coin_flips(sampling_table_seed, sampling_table_size),
        ngram_len=ngram_len,
        context_history_size=whole("context_history_size", context_history_size, 1),
        skipped=ngram_len - 1 if skip_first_ngram_calls else 0,
        debug_mode=debug_mode,
    )
