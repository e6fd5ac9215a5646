"""Lengths, forced and suppressed tokens, and finite scores equal transformers'."""

import math

import numpy as np
import pytest
from transformers.generation import logits_process as theirs

from jaxformers.core.errors import ConfigError
from jaxformers.generation import transforms as ours
from tests.generation.transforms.side_by_side import agree, random_scores, random_tokens, run, seen_of, torched

LENGTHS = (1, 2, 4, 5, 6, 9, 10, 17)


@pytest.mark.parametrize("eos", [2, [2, 30]])
@pytest.mark.parametrize("least", [0, 6, 10])
def test_least_lengths(eos, least):
    agree(ours.min_length(least, eos), lambda _: theirs.MinLengthLogitsProcessor(least, eos), lengths=LENGTHS)
    agree(
        ours.min_new_tokens(least, eos),
        lambda prompt: theirs.MinNewTokensLengthLogitsProcessor(prompt, least, eos),
        lengths=LENGTHS,
    )


@pytest.mark.parametrize("penalty", [(0, 1.01), (2, 1.6), (5, 0.7), [3, 4.0]])
def test_exponential_decay(penalty):
    agree(
        ours.exponential_decay_length_penalty(penalty, [2, 30]),
        lambda prompt: theirs.ExponentialDecayLengthPenalty(tuple(penalty), [2, 30], prompt),
        kinds=("plain", "impossible"),
        lengths=LENGTHS,
    )


def test_forced_tokens():
    agree(ours.forced_bos(5), lambda _: theirs.ForcedBOSTokenLogitsProcessor(5), lengths=(1, 2, 9))
    for eos in (7, [7, 8]):
        processor = theirs.ForcedEOSTokenLogitsProcessor(10, eos)
        agree(ours.forced_eos(10, eos), lambda _, processor=processor: processor, lengths=LENGTHS)


def test_suppressed_tokens():
    agree(ours.suppress_tokens([1, 5, -1, 99]), lambda _: theirs.SuppressTokensLogitsProcessor([1, 5, -1, 99]))
    at_four = theirs.SuppressTokensAtBeginLogitsProcessor([1, 5], 4)
    agree(ours.suppress_tokens_at_begin([1, 5], 4), lambda _: at_four, prompt=2, lengths=LENGTHS)
    agree(ours.suppress_tokens_at_begin([1, 5]), lambda _: at_four, prompt=4, lengths=(4, 5, 9))
    # After a prompt of one token and a forced one the beginning is at two, after a longer prompt where that ends.
    at_two = theirs.SuppressTokensAtBeginLogitsProcessor([1, 5], 2)
    agree(ours.suppress_tokens_at_begin([1, 5], forced=1), lambda _: at_two, prompt=1, lengths=(1, 2, 3))
    agree(ours.suppress_tokens_at_begin([1, 5], forced=1), lambda _: at_four, prompt=4, lengths=(4, 5))


def test_finite_scores():
    scores, tokens = random_scores(2), random_tokens(2, 4)
    scores[0, :4] = np.nan, np.inf, -np.inf, 0.0
    got = run(ours.remove_invalid_values(), scores, seen_of(tokens, 2))
    np.testing.assert_array_equal(got, torched(theirs.InfNanRemoveLogitsProcessor(), scores, tokens))
    agree(ours.renormalize_logits(), lambda _: theirs.LogitNormalization(), kinds=("plain", "impossible"))


def test_refusals():
    for make in (ours.min_length, ours.min_new_tokens):
        for least in (-1, 1.5, None):
            with pytest.raises(ConfigError, match="min_"):
                make(least, 2)
        with pytest.raises(ConfigError, match="eos_token_id"):
            make(3, [1.5])
    for eos in (-1, [], [2.0]):
        with pytest.raises(ConfigError, match="eos_token_id"):
            ours.forced_eos(10, eos)
        with pytest.raises(ConfigError, match="eos_token_id"):
            ours.exponential_decay_length_penalty((2, 1.5), eos)
    for penalty in (3, (2, 0.0), (-1, 1.5), (1, 2, 3), (2, math.nan)):
        with pytest.raises(ConfigError, match="exponential_decay_length_penalty"):
            ours.exponential_decay_length_penalty(penalty, 2)
