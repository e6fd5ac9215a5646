"""Repetition penalties and n-gram bans equal transformers', and nothing outside the real columns counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from jaxformers.core.errors import ConfigError
from jaxformers.generation import transforms as ours
from tests.generation.transforms.side_by_side import agree, random_scores, random_tokens, run, same, seen_of, torched

READ = random_tokens(3, 11, seed=5)


@pytest.mark.parametrize("penalty", [0.6, 1.3])
@pytest.mark.parametrize("ignored", [None, 2, 6, np.array([0, 3, 40])])
def test_repetition_penalty(penalty, ignored):
    given = torch.tensor(ignored) if isinstance(ignored, np.ndarray) else ignored
    agree(
        ours.repetition_penalty(penalty, ignored),
        lambda _: theirs.RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=given),
    )


@pytest.mark.parametrize("rows", [3, 6])
def test_encoder_repetition_penalty(rows):
    """Six rows are two beams of three inputs."""
    read = torch.tensor(READ)
    agree(
        ours.encoder_repetition_penalty(1.4),
        lambda _: theirs.EncoderRepetitionPenaltyLogitsProcessor(1.4, read),
        encoder=READ,
        rows=rows,
    )


@pytest.mark.parametrize("size", [1, 2, 3, 6, 30])
def test_no_repeat_ngram(size):
    agree(
        ours.no_repeat_ngram(size),
        lambda _: theirs.NoRepeatNGramLogitsProcessor(size),
        lengths=(1, 2, 5, 17, 21),
    )


@pytest.mark.parametrize(("size", "rows"), [(1, 3), (2, 6), (3, 3), (12, 3), (40, 3)])
def test_encoder_no_repeat_ngram(size, rows):
    read = torch.tensor(READ)
    agree(
        ours.encoder_no_repeat_ngram(size),
        lambda _: theirs.EncoderNoRepeatNGramLogitsProcessor(size, read),
        lengths=(1, 2, 5, 17),
        encoder=READ,
        rows=rows,
    )


def test_ngrams_are_found_where_they_are():
    """Random tokens seldom repeat long n-grams, so here is one that does."""
    tokens = np.array([[7, 8, 9, 1, 7, 8, 9, 2, 7, 8]])
    scores = random_scores(1)
    for size in (2, 3):
        got = run(ours.no_repeat_ngram(size), scores, seen_of(tokens, 3))
        assert np.flatnonzero(np.isneginf(got)).tolist() == [9]
    encoder = seen_of(tokens, 3, encoder=np.array([[7, 8, 5, 7, 8, 6]]))
    got = run(ours.encoder_no_repeat_ngram(3), scores, encoder)
    assert np.flatnonzero(np.isneginf(got)).tolist() == [5, 6]


def test_maps_over_a_leading_axis():
    both = ours.repetition_penalty(1.2), ours.no_repeat_ngram(2)
    seens = [seen_of(random_tokens(2, 12, seed), 4, junk=seed) for seed in (0, 1)]
    scores = np.stack([random_scores(2, seed) for seed in (0, 1)])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seens)
    for one in both:
        for got, row, seen in zip(jax.jit(jax.vmap(one))(scores, stacked), scores, seens, strict=True):
            same(got, np.asarray(run(one, row, seen)))


def test_refusals():
    for penalty in (0.0, -1.0, None):
        with pytest.raises(ConfigError, match="penalty"):
            ours.repetition_penalty(penalty)
        with pytest.raises(ConfigError, match="penalty"):
            ours.encoder_repetition_penalty(penalty)
    with pytest.raises(ConfigError, match="prompt_ignore_length"):
        ours.repetition_penalty(1.2, -1)
    with pytest.raises(ConfigError, match="prompt_ignore_length"):
        ours.repetition_penalty(1.2, np.zeros((2, 2), int))
    for size in (0, -1, 1.5):
        with pytest.raises(ConfigError, match="ngram_size"):
            ours.no_repeat_ngram(size)
        with pytest.raises(ConfigError, match="ngram_size"):
            ours.encoder_no_repeat_ngram(size)
    scores, tokens = random_scores(3), random_tokens(3, 5)
    with pytest.raises(ConfigError, match="encoder_tokens"):
        run(ours.encoder_repetition_penalty(1.2), scores, seen_of(tokens, 3))
    with pytest.raises(ConfigError, match="3 rows"):
        run(ours.repetition_penalty(1.2, np.array([0, 1])), scores, seen_of(tokens, 3))
    with pytest.raises(ValueError, match="batch size"):  # transformers refuses the last one too
        torched(theirs.RepetitionPenaltyLogitsProcessor(1.2, torch.tensor([0, 1])), scores, tokens)
