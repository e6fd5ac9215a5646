"""Finding a SynthID watermark: g-values of a text, what of them counts, and scores made of them."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxformers.core.pytree import dataclass
from jaxformers.generation.transforms import hash64
from jaxformers.generation.transforms.arguments import Array, Whole
from jaxformers.generation.transforms.synthid import SynthIDWatermark, g_value

FIRST_WEIGHT = 10.0  # rounds weigh from this down to 1, as in the paper's weighted mean


def window_hashes(tokens: jax.Array, width: int) -> hash64.Pair:
    """Hashes of every window of tokens [B,T], [B,T-width+1]."""
    count = tokens.shape[1] - width + 1
    hashed = hash64.start((tokens.shape[0], count))
    for place in range(width):
        hashed = hash64.accumulate(hashed, hash64.of_tokens(tokens[:, place : place + count]))
    return hashed


def synthid_g_values(tokens: Array, mark: SynthIDWatermark) -> jax.Array:
    """Which rounds each n-gram of tokens [B,T] wins, UInt8 [B,T-n+1,D]; on average half of them without a watermark."""
    ngrams = window_hashes(jnp.asarray(tokens), mark.ngram_len)
    rounds = lax.map(lambda key: g_value(ngrams, key, mark.sampling_table), jnp.asarray(mark.keys))
    return jnp.moveaxis(rounds, 0, -1)


def synthid_context_repetition_mask(tokens: Array, mark: SynthIDWatermark) -> jax.Array:
    """Bool [B,T-n+1]: n-grams whose context did not come before, so that they could be marked."""
    contexts = window_hashes(jnp.asarray(tokens)[:, :-1], mark.ngram_len - 1)
    at = jnp.arange(contexts.low.shape[1])
    distance = at[:, None] - at
    recent = (distance > 0) & (distance <= mark.context_history_size)
    later = hash64.Pair(*(half[:, :, None] for half in contexts))
    same = hash64.equal(later, hash64.Pair(*(half[:, None] for half in contexts)))
    zero = (contexts.high == 0) & (contexts.low == 0) & (at < mark.context_history_size)  # a history begins with zeros
    return ~(jnp.any(same & recent, axis=-1) | zero)


def synthid_eos_mask(tokens: Array, eos_token_id: Whole) -> jax.Array:
    """Bool [B,T]: tokens before the first end."""
    return jnp.cumsum(jnp.asarray(tokens) == eos_token_id, axis=-1) == 0


def synthid_mask(tokens: Array, mark: SynthIDWatermark, eos_token_id: Whole) -> jax.Array:
    """Bool [B,T-n+1]: n-grams that tell something about a watermark."""
    return (
        synthid_context_repetition_mask(tokens, mark) & synthid_eos_mask(tokens, eos_token_id)[:, mark.ngram_len - 1 :]
    )


def synthid_mean_score(g_values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean g-value [B] of what counts: 0.5 without a watermark, more with one."""
    counts = jnp.sum(mask, axis=-1) * g_values.shape[-1]
    return jnp.sum(g_values * mask[..., None], axis=(-2, -1), dtype=jnp.float32) / counts


def synthid_weighted_mean_score(g_values: jax.Array, mask: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """The mean score [B] with `weights` [D] for rounds; the first rounds tell most and weigh most by default."""
    depth = g_values.shape[-1]
    weights = jnp.linspace(FIRST_WEIGHT, 1.0, depth) if weights is None else jnp.asarray(weights)
    return synthid_mean_score(g_values * (weights * depth / weights.sum()), mask)


def synthid_expected_mean(vocab_size: int, coinflip_prob: float = 0.5) -> float:
    """The mean g-value after one round on a uniform distribution."""
    return coinflip_prob + coinflip_prob * (1 - coinflip_prob) * (1 - 1 / vocab_size)


@dataclass
class SynthIDBayes:
    """What the trained Bayesian detector knows; transformers' BayesianDetectorModel holds the same."""

    beta: jax.Array  # Float [D]
    delta: jax.Array  # Float [D,D]: round by earlier round
    prior: jax.Array  # Float []: how likely a text is marked


def synthid_posterior(g_values: jax.Array, mask: jax.Array, detector: SynthIDBayes) -> jax.Array:
    """How likely each text is marked [B], given its g-values [B,T,D] and what counts [B,T]."""
    values = g_values.astype(jnp.float32)
    earlier = jnp.tril(detector.delta, k=-1)
    two = jax.nn.sigmoid(values @ earlier.T + detector.beta)  # that two different tokens fought in a round
    likelihood = 0.5 * ((values + 0.5) * two + (1 - two))
    odds = jnp.log(jnp.maximum(likelihood, 1e-30)) - jnp.log(0.5)
    prior = jnp.clip(detector.prior, 1e-5, 1 - 1e-5)
    return jax.nn.sigmoid(jnp.log(prior) - jnp.log1p(-prior) + jnp.sum(odds * mask[..., None], axis=(-2, -1)))
