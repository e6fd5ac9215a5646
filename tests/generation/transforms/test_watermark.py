"""Watermarks of Kirchenbauer et al. are transformers' to the token, and each side detects the other's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GPT2Config, WatermarkDetector
from transformers.generation import logits_process as theirs

from jaxformers.core.errors import ConfigError
from jaxformers.generation import transforms as ours
from jaxformers.generation.transforms import torch_random
from tests.generation.transforms.side_by_side import random_scores, random_tokens, run, same, seen_of, torched

VOCABULARY = 53
SETTINGS = (
    dict(),
    dict(greenlist_ratio=0.6, bias=3.5, hashing_key=101, context_width=3),
    dict(seeding_scheme="selfhash"),
    dict(seeding_scheme="selfhash", context_width=4, greenlist_ratio=0.5, bias=1.0),
)


@pytest.mark.parametrize(
    ("size", "seed"), [(1, 0), (2, 9), (7, 0), (101, 3), (50257, 2**63 + 17), (1_000_003, 15485863)]
)
def test_permutations_are_torchs(size, seed):
    want = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_array_equal(torch_random.permutation(seed, size), want)


@pytest.mark.parametrize(("count", "seed"), [(37, 2**35 + 1), (65_536, 0)])
def test_coin_flips_are_torchs(count, seed):
    want = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_array_equal(torch_random.coin_flips(seed, count), want)


@pytest.mark.parametrize("seed", range(5))
def test_membership_needs_no_permutation(seed):
    for size, first in ((53, 13), (54, 53), (2, 1), (300, 7)):
        steps = torch_random.exchanges(seed, size, first)
        members = set(torch_random.permutation(seed, size)[:first].tolist())
        assert {value for value in range(size) if torch_random.comes_first(value, steps)} == members


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores(settings):
    processor = theirs.WatermarkLogitsProcessor(VOCABULARY, "cpu", **settings)
    transform = ours.watermark(VOCABULARY, **settings)
    for length in (1, 2, 4, 9):
        tokens, scores = random_tokens(3, length, length), random_scores(3, length, vocabulary=VOCABULARY)
        got = run(transform, scores, seen_of(tokens, 1, junk=length))
        same(got, torched(processor, scores, tokens))
        too_short = length < settings.get("context_width", 1)
        assert np.all(got == scores) == too_short


def test_a_vocabulary_smaller_than_the_scores():
    scores, tokens = random_scores(2, vocabulary=60), random_tokens(2, 3)
    got = run(ours.watermark(VOCABULARY), scores, seen_of(tokens, 1))
    same(got, torched(theirs.WatermarkLogitsProcessor(VOCABULARY, "cpu"), scores, tokens))


def marked_text(transform, rows=3, length=48):
    """Drawn from a flat distribution, marked in a compiled loop."""

    @jax.jit
    def write(tokens, key):
        def step(at, tokens):
            from jaxformers.generation.seen import Seen

            scores = jax.random.normal(jax.random.fold_in(key, at), (rows, VOCABULARY))
            token = jnp.argmax(transform(scores, Seen(tokens, jnp.int32(0), jnp.int32(1), at)), -1)
            return tokens.at[:, at].set(token.astype(jnp.int32))

        return jax.lax.fori_loop(1, length, step, tokens)

    return np.asarray(write(jnp.zeros((rows, length), jnp.int32), jax.random.key(0)))


@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[3]])
def test_detection(settings):
    transform = ours.watermark(VOCABULARY, **settings)
    marked = np.concatenate([marked_text(transform), np.random.default_rng(0).integers(1, VOCABULARY, (2, 48))])
    marked[0, 30:] = marked[0, :18]  # repeated n-grams
    whole = dict(greenlist_ratio=0.25, bias=2.0, hashing_key=15485863, seeding_scheme="lefthash", context_width=1)
    config = GPT2Config(vocab_size=VOCABULARY, bos_token_id=0)
    for once in (False, True):
        detector = WatermarkDetector(config, "cpu", {**whole, **settings}, ignore_repeated_ngrams=once)
        for tokens in (marked, np.pad(marked, ((0, 0), (1, 0)))):
            tokens = tokens if (tokens[:, 0] == 0).all() else np.maximum(tokens, 1)
            want = detector(torch.tensor(tokens), return_dict=True)
            got = ours.detect_watermark(tokens, transform, bos_token_id=0, ignore_repeated_ngrams=once)
            for name, value in vars(got).items():
                np.testing.assert_allclose(value, getattr(want, name), rtol=1e-9, err_msg=name)
    assert ours.detect_watermark(marked[:, 1:], transform).prediction.tolist()[1:] == [True, True, False, False]


def test_refusals():
    for settings in (
        dict(seeding_scheme="hash"),
        dict(greenlist_ratio=0.0),
        dict(greenlist_ratio=1.0),
        dict(context_width=0),
    ):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            ours.watermark(VOCABULARY, **settings)
    with pytest.raises(ConfigError, match="needs 3 tokens"):
        ours.detect_watermark(np.ones((1, 3), int), ours.watermark(VOCABULARY, context_width=3))
    with pytest.raises(ConfigError, match="bos"):
        ours.detect_watermark(np.array([[0, 1, 2], [1, 1, 2]]), ours.watermark(VOCABULARY), bos_token_id=0)
