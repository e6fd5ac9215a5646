"""Whisper's timestamp rules and guidance equal transformers'."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.generation import logits_process as theirs

from jaxformers.core.errors import ConfigError
from jaxformers.generation import transforms as ours
from tests.generation.transforms.side_by_side import (
    VOCABULARY,
    random_scores,
    random_tokens,
    run,
    same,
    seen_of,
    torched,
)

NO_TIMESTAMPS, EOS, BEGIN = 19, 17, 3  # timestamps are the tokens from 20


def transcripts(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """A start, then text and timestamps that rise, in pairs or not."""
    text = rng.integers(0, EOS, (rows, length))
    times = np.sort(rng.integers(NO_TIMESTAMPS + 1, VOCABULARY - 1, (rows, length)), axis=1)
    tokens = np.where(rng.random((rows, length)) < 0.5, times, text)
    tokens[:, :BEGIN] = [18, 25, NO_TIMESTAMPS][:length]  # 25: before the beginning, a timestamp does not count
    return tokens


@pytest.mark.parametrize("first", [None, 0, 5])
@pytest.mark.parametrize("detect", [True, False])
def test_timestamps(first, detect):
    config = GenerationConfig(eos_token_id=EOS, bos_token_id=EOS)
    config.no_timestamps_token_id, config.max_initial_timestamp_index = NO_TIMESTAMPS, first
    processor = theirs.WhisperTimeStampLogitsProcessor(config, BEGIN, _detect_timestamp_from_logprob=detect)
    transform = ours.whisper_timestamps(NO_TIMESTAMPS, EOS, BEGIN, first, detect)
    rng = np.random.default_rng(0)
    for length in (3, 4, 5, 6, 9, 15):
        for seed in range(4):
            tokens, scores = transcripts(rng, 5, length), random_scores(5, seed)
            scores[:, :20] += 2.0 * seed - 2.0  # from mostly time to mostly text
            same(run(transform, scores, seen_of(tokens, 3, junk=seed)), torched(processor, scores, tokens))


def test_no_speech_probability():
    """transformers keeps it in the processor when the prompt was just read."""
    scores, tokens = random_scores(3), random_tokens(3, 1)
    for log_probabilities in (False, True):
        given = torch.tensor(scores).log_softmax(-1).numpy() if log_probabilities else scores
        processor = theirs.WhisperNoSpeechDetection(5, 1, scores_is_logprobs=log_probabilities)
        torched(processor, given, tokens)
        np.testing.assert_allclose(
            ours.no_speech_probability(jnp.asarray(given), 5), processor.no_speech_prob, rtol=1e-5
        )


def test_guidance():
    scores, tokens = random_scores(6), random_tokens(3, 5)
    got = run(ours.classifier_free_guidance(1.7), scores, seen_of(tokens, 3))
    same(got, torched(theirs.ClassifierFreeGuidanceLogitsProcessor(1.7), scores, tokens), rtol=2e-6)
    conditional, unconditional = jnp.split(jnp.asarray(scores), 2)
    same(ours.guide(conditional, unconditional, 1.7), np.asarray(got))

    def model(*_, **__):
        return TorchOutput(torch.tensor(scores[3:])[:, None])

    for scale in (1.0, 0.5, 1.7):
        processor = theirs.UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, model)
        want = processor(torch.tensor(tokens), torch.tensor(scores[:3])).numpy()
        same(run(ours.text_guidance(scale), scores, seen_of(tokens, 3)), want, rtol=2e-6)


class TorchOutput(dict):
    """What transformers reads of a model's output."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__(logits=logits)
        self.logits = logits


def test_refusals():
    with pytest.raises(ConfigError, match="guidance_scale"):
        ours.classifier_free_guidance(1.0)
    with pytest.raises(ConfigError, match="twice as many rows"):
        run(ours.classifier_free_guidance(2.0), random_scores(3), seen_of(random_tokens(3, 4), 2))
    with pytest.raises(ConfigError, match="begin_index"):
        ours.whisper_timestamps(NO_TIMESTAMPS, EOS, None)
