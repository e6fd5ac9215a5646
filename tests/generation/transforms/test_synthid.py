"""SynthID Text equals transformers' step by step, though its state follows from the tokens alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import BayesianDetectorConfig, BayesianDetectorModel, SynthIDTextWatermarkDetector
from transformers.generation import logits_process as theirs

from jaxformers.core.errors import ConfigError
from jaxformers.generation import transforms as ours
from jaxformers.generation.transforms import hash64
from tests.generation.transforms.side_by_side import VOCABULARY, random_scores, run, seen_of

KEYS = [654, 400, 836, 123, 340, 443, 597, 160, 57, -29, 2**62 + 5]
DEFAULTS = dict(ngram_len=5, keys=KEYS, sampling_table_size=2**16, sampling_table_seed=0, context_history_size=1024)
SETTINGS = (
    dict(DEFAULTS, ngram_len=2),  # contexts of one token repeat
    dict(DEFAULTS, ngram_len=3, skip_first_ngram_calls=True, sampling_table_seed=3),
    dict(DEFAULTS, ngram_len=2, context_history_size=3, sampling_table_size=1000),
    dict(DEFAULTS, debug_mode=True),
)


G_VALUES, MASK = jax.jit(ours.synthid_g_values), jax.jit(ours.synthid_mask)


def tokens_that_repeat(rows, length):
    return np.random.default_rng(0).integers(0, 4, (rows, length))


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_of_every_step(settings):
    processor = theirs.SynthIDTextWatermarkLogitsProcessor(**settings, device="cpu")
    transform = ours.synthid_watermark(**settings)
    tokens, marked = tokens_that_repeat(3, 16), 0
    for length in range(4, 17):
        scores = random_scores(3, length)
        want = processor(torch.tensor(tokens[:, :length]), torch.tensor(scores)).numpy()
        got = run(transform, scores, seen_of(tokens[:, :length], 4, junk=length))
        lowest = np.finfo(np.float32).min
        np.testing.assert_array_equal(got == lowest, want == lowest)
        # A round that nearly everything wins leaves the rest with the rounding error of 1 - mass: small in probability.
        np.testing.assert_allclose(np.exp(got), np.exp(want), rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        marked += (np.asarray(got) != scores).any(axis=1).sum()
    assert 0 < marked <= 39
    assert (marked < 39) == (settings["ngram_len"] < 5)  # repeated contexts are left alone


@pytest.mark.parametrize("table", [2**16, 1000, 97, 2**24 - 3])
def test_hash_is_that_of_64_bits(table):
    rng = np.random.default_rng(table)
    tokens = rng.integers(0, 300_000, (50, 6))
    keys = rng.integers(-(2**63), 2**63, 50)
    state, ours_state = np.ones(50, np.int64), hash64.start((50,))
    for data in tokens.T:
        state = (state + data) * np.int64(hash64.MULTIPLIER) + 1
        ours_state = hash64.accumulate(ours_state, hash64.of_tokens(jnp.asarray(data)))
    state = (state + keys) * np.int64(hash64.MULTIPLIER) + 1
    halves = hash64.pair(keys)
    ours_state = hash64.accumulate(ours_state, hash64.Pair(jnp.asarray(halves[:, 0]), jnp.asarray(halves[:, 1])))
    np.testing.assert_array_equal(np.stack(ours_state, -1), hash64.pair(state))
    np.testing.assert_array_equal(hash64.modulo(ours_state, table), state % table)


@pytest.mark.parametrize("settings", SETTINGS[:3])
def test_detection(settings):
    processor = theirs.SynthIDTextWatermarkLogitsProcessor(**settings, device="cpu")
    mark, tokens = ours.synthid_watermark(**settings), tokens_that_repeat(4, 30) + 1
    tokens[0, 20], tokens[1, [5, 9]] = 0, 0
    given = torch.tensor(tokens)
    np.testing.assert_array_equal(G_VALUES(tokens, mark), processor.compute_g_values(given))
    repeats = jax.jit(ours.synthid_context_repetition_mask)(tokens, mark)
    np.testing.assert_array_equal(repeats, processor.compute_context_repetition_mask(given))
    np.testing.assert_array_equal(ours.synthid_eos_mask(tokens, 0), processor.compute_eos_token_mask(given, 0))
    assert ours.synthid_expected_mean(VOCABULARY) == processor.expected_mean_g_value(VOCABULARY)

    torch.manual_seed(0)
    model = BayesianDetectorModel(BayesianDetectorConfig(watermarking_depth=len(KEYS), base_rate=0.3)).eval()
    inner = model.likelihood_model_watermarked
    for parameter in (inner.beta, inner.delta):
        parameter.data = torch.randn_like(parameter)
    tokenizer = type("Tokenizer", (), {"eos_token_id": 0})
    with torch.no_grad():
        want = SynthIDTextWatermarkDetector(model, processor, tokenizer)(given)[0]
    beta, delta = (jnp.asarray(p.detach().numpy()) for p in (inner.beta[0, 0], inner.delta[0, 0]))
    detector = ours.SynthIDBayes(beta, delta, jnp.asarray(model.prior.detach().numpy()[0]))
    mask = MASK(tokens, mark, 0)
    np.testing.assert_allclose(
        ours.synthid_posterior(G_VALUES(tokens, mark), mask, detector), want, rtol=1e-4, atol=1e-6
    )


def test_marked_text_scores_higher():
    """A text drawn from a flat distribution with the mark, in a compiled loop, and one without."""
    mark = ours.synthid_watermark(ngram_len=3, keys=KEYS)
    plain = np.random.default_rng(1).integers(0, VOCABULARY, (2, 20))
    start = seen_of(np.zeros((2, 1), int), 1)

    def step(at, seen):
        scores = mark(jnp.zeros((2, VOCABULARY)), seen)
        token = jax.random.categorical(jax.random.fold_in(jax.random.key(0), at), scores).astype(jnp.int32)
        tokens = jax.lax.dynamic_update_slice(seen.tokens, token[:, None], (0, seen.end))
        return seen.replace(tokens=tokens, end=seen.end + 1)

    marked = jax.jit(lambda seen: jax.lax.fori_loop(0, 20, step, seen))(start).tokens[:, 4:24]
    for score in (ours.synthid_mean_score, ours.synthid_weighted_mean_score):
        high, low = (score(G_VALUES(t, mark), MASK(t, mark, -1)) for t in (marked, plain))
        assert np.all(high > 0.6) and np.all(low < 0.6), (high, low)


def test_mean_scores():
    """By hand: two n-grams, of which one counts."""
    values, mask = jnp.asarray([[[1, 0, 1], [0, 0, 1]]]), jnp.asarray([[True, False]])
    np.testing.assert_allclose(ours.synthid_mean_score(values, mask), [2 / 3], rtol=1e-6)
    np.testing.assert_allclose(ours.synthid_weighted_mean_score(values, mask), [(10 + 1) / 16.5], rtol=1e-6)
    np.testing.assert_allclose(
        ours.synthid_weighted_mean_score(values, mask, np.array([3.0, 2.0, 1.0])), [4 / 6], rtol=1e-6
    )


def test_refusals():
    for wrong in (dict(ngram_len=1), dict(keys=[]), dict(keys=[1.5]), dict(sampling_table_size=2**24 + 1)):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ours.synthid_watermark(**{**DEFAULTS, **wrong})
