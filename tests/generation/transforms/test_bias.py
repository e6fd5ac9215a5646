"""Biases and bans on sequences equal transformers'."""

import numpy as np
import pytest
from transformers.generation import logits_process as theirs

from jaxformers.core.errors import ConfigError
from jaxformers.generation import transforms as ours
from tests.generation.transforms.side_by_side import agree, random_scores, random_tokens, run, same, seen_of, torched

LENGTHS = (1, 2, 9, 17)
LISTED = [[[3], 2.5], [[6], -1.0], [[9, 3], -4.0], [[0, 3], 1.5], [[9, 9, 12], 3.0], [[3] * 30, 9.0]]
WORDS = [[3], [36], [9, 3], [0, 3], [6, 0, 3], [3, 3, 3, 3, 3, 3]]


def test_sequence_bias():
    pairs = {tuple(sequence): bias for sequence, bias in LISTED}
    for given in (LISTED, pairs):
        agree(ours.sequence_bias(given), lambda _, g=given: theirs.SequenceBiasLogitsProcessor(g), lengths=LENGTHS)


def test_bad_words():
    for eos in (None, 36, [3, 5]):
        agree(
            ours.bad_words(WORDS, eos),
            lambda _, eos=eos: theirs.NoBadWordsLogitsProcessor(WORDS, eos),
            kinds=("plain", "impossible"),
            lengths=LENGTHS,
        )


def test_sequences_match_at_the_end_only():
    tokens, scores = np.array([[9, 3, 5], [1, 9, 9], [9, 3, 9]]), random_scores(3)
    pairs = [[[9, 3], -4.0], [[9, 9, 12], 3.0], [[3, 9, 7], 1.0], [[9, 7], 0.5]]
    got = run(ours.sequence_bias(pairs), scores, seen_of(tokens, 2))
    same(got, torched(theirs.SequenceBiasLogitsProcessor(pairs), scores, tokens))
    changed = np.argwhere(np.asarray(got) != scores).tolist()
    assert changed == [[1, 3], [1, 7], [1, 12], [2, 3], [2, 7]]
    assert got[2, 7] == scores[2, 7] + np.float32(1.5)


def test_other_words_of_the_same_lengths_do_not_recompile():
    scores, seen = random_scores(2), seen_of(random_tokens(2, 6), 3)
    run(ours.bad_words([[1], [2, 3]]), scores, seen)
    before = run._cache_size()
    run(ours.bad_words([[4], [5, 6]]), scores, seen)
    assert run._cache_size() == before


@pytest.mark.parametrize(
    "given", [[], {}, None, [[[], 1.0]], [[[1], 1]], [[[-1], 1.0]], {1: 1.0}, {(1.5,): 1.0}, [[1, 2.0]]]
)
def test_refuses_malformed_biases(given):
    with pytest.raises(ConfigError, match="sequence_bias"):
        ours.sequence_bias(given)


@pytest.mark.parametrize("given", [[], None, [1], [[]], [[-1]], [[1.5]], "words"])
def test_refuses_malformed_words(given):
    with pytest.raises(ConfigError, match="bad_words_ids"):
        ours.bad_words(given)


def test_refuses_tokens_outside_the_vocabulary():
    with pytest.raises(ConfigError, match="40"):
        ours.bad_words([[1], [40, 2]], vocab_size=37)
    with pytest.raises(ConfigError, match="37"):
        ours.sequence_bias({(37,): 1.0}, vocab_size=37)
