"""Whisper's generate gives transformers' tokens, segments and times on a tiny random model and on spoken words."""

import jax
import numpy as np
import pytest
import torch

from jaxformers.core.errors import ConfigError
from tests.generation.whisper_side import (
    DE,
    EN,
    END,
    FIRST,
    MUTE,
    PREVIOUS,
    START,
    TRANSCRIBE,
    TRANSLATE,
    both,
    features,
    pair,
    same,
    spoken,
)

SHORT = dict(language="en", max_new_tokens=12)
LONG = dict(language="en", return_timestamps=True, return_segments=True, max_new_tokens=12)


@pytest.fixture(scope="module")
def long() -> dict:
    """Two sounds of 2.6 and 1.7 windows."""
    mask = np.ones((2, 260), np.int64)
    mask[1, 170:] = 0
    return {"inputs": features(2, 260, seed=4), "attention_mask": mask}


def alone(long: dict) -> np.ndarray:
    """The first of the two, by itself."""
    return long["inputs"][:1]


@pytest.mark.parametrize(
    "options",
    [
        dict(task="transcribe"),
        dict(language=["french", "de"], task="translate"),
        dict(language="<|de|>", force_unique_generate_call=True),
        dict(language=None, task="transcribe"),  # detected
    ],
    ids=["plain", "languages", "one call", "detected"],
)
def test_short(options):
    same(*both(features(), **{**SHORT, **options}))


def test_languages_are_detected():
    theirs, ours = pair()
    inputs = features(4, seed=1)
    want = theirs.detect_language(torch.tensor(inputs)).numpy()
    assert len(set(want)) > 1
    np.testing.assert_array_equal(ours.detect_language(inputs), want)
    with pytest.raises(ConfigError, match="lang_to_id"):
        pair(lang_to_id=None)[1].detect_language(inputs)


def test_long(long):
    want, got = both(**long, **LONG)
    same(want, got)
    assert len(want["segments"][0]) > len(want["segments"][1]) > 1
    # A row of a batch is what it is alone.
    _, one = both(alone(long), **LONG)
    lengths = [len(segment["tokens"]) for segment in one["segments"][0]]
    assert lengths == [len(segment["tokens"]) for segment in got["segments"][0]]


@pytest.mark.parametrize(
    "options",
    [
        dict(condition_on_prev_tokens=True),
        dict(prompt_ids=np.array([PREVIOUS, 5, 6, 7])),
        dict(
            prompt_ids=np.array([PREVIOUS, 5, 6, 7]),
            condition_on_prev_tokens=True,
            prompt_condition_type="all-segments",
        ),
    ],
    ids=["condition", "prompt", "prompt always"],
)
def test_what_was_said_before(long, options):
    same(*both(**long, **{**LONG, **options}))


@pytest.mark.parametrize(
    ("limits", "again", "skipped"),
    [
        (dict(logprob_threshold=-9.0, compression_ratio_threshold=9.0), False, False),
        (dict(logprob_threshold=-0.5, compression_ratio_threshold=9.0), True, False),
        (dict(logprob_threshold=-9.0, compression_ratio_threshold=0.5), True, False),
        (dict(logprob_threshold=-0.5, no_speech_threshold=0.0), False, True),
        (dict(logprob_threshold=-0.5, no_speech_threshold=0.99), True, False),
    ],
    ids=["content", "unlikely", "repeated", "silent", "not silent"],
)
def test_thresholds(long, limits, again, skipped, monkeypatch):
    """Two attempts without chance, so that transformers' second gives the same tokens as ours."""
    import jaxformers.generation.whisper_fallback as fallback

    attempts = []
    real = fallback.write_once
    monkeypatch.setattr(fallback, "write_once", lambda *a: attempts.append(a[4]) or real(*a))
    want, got = both(alone(long), temperature=(0.0, 0.0), **LONG, **limits)
    same(want, got)
    windows = len(attempts) // (2 if again else 1)
    assert windows >= 2 and len(attempts) == windows * (2 if again else 1)
    assert (len(got["segments"][0]) == 0) == skipped


def test_drawing_falls_back_and_follows_the_key(long):
    _, ours = pair()
    options = dict(LONG, temperature=(0.0, 1.0), logprob_threshold=-0.5, max_new_tokens=12)
    first, again, other = (ours.generate(alone(long), key=jax.random.key(seed), **options) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["sequences"], again["sequences"])
    cold = ours.generate(alone(long), **LONG)
    for drawn in (first, other):
        assert drawn["sequences"].tolist() != cold["sequences"].tolist()
    assert first["sequences"].tolist() != other["sequences"].tolist()
    with pytest.raises(ConfigError, match="pass key="):
        ours.generate(alone(long), **options)


def test_times_of_tokens(long):
    same(*both(features(), return_token_timestamps=True, **SHORT))
    want, got = both(**long, **LONG, return_token_timestamps=True)
    same(want, got)
    assert np.ptp(np.asarray(got["token_timestamps"])) > 0.5


def test_spoken_words():
    want, got = both(spoken(), **{**LONG, "language": None})
    same(want, got)
    assert len(got["segments"][0]) > 2


@pytest.mark.slow
def test_beams():
    same(*both(features(), num_beams=3, **SHORT))


@pytest.mark.slow
def test_outputs():
    options = dict(SHORT, return_dict_in_generate=True, output_scores=True)
    want, got = both(features(), **options)
    np.testing.assert_array_equal(got.sequences, want.sequences.numpy())
    for ours, theirs in zip(got.scores, want.scores, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
    want, got = both(features(), **{**options, "return_timestamps": True})
    same(want, got)
    for ours, theirs in zip(got["segments"][0], want["segments"][0], strict=True):
        assert len(ours["result"]["scores"]) == len(theirs["result"]["scores"])
        np.testing.assert_allclose(ours["result"]["scores"][0], theirs["result"]["scores"][0].numpy(), atol=1e-4)


@pytest.mark.slow
def test_length_grows_from_window_to_window(long):
    """transformers adds the prompt to max_length for every window."""
    options = {name: value for name, value in LONG.items() if name != "max_new_tokens"}
    same(*both(alone(long), max_length=10, **options))


def test_progress(long):
    _, ours = pair()
    seen = []
    ours.generate(alone(long), monitor_progress=lambda p: seen.append(p.tolist()), **LONG)
    places = [p[0][0] for p in seen]
    assert places[0] == 0 and places == sorted(set(places)) and all(p[0][1] == 260 for p in seen)


def test_stacked_layers_write_the_same(long):
    _, ours = pair()
    from jaxformers import restack

    got = restack(ours, scan=True).generate(features(), **SHORT)
    np.testing.assert_array_equal(got, ours.generate(features(), **SHORT))


@pytest.mark.parametrize(
    ("changes", "options", "complaint"),
    [
        ({}, dict(frames=260, return_timestamps=False), "must write timestamps"),
        ({}, dict(frames=260), "needs attention_mask"),
        ({}, dict(language="klingon"), "does not know the language 'klingon'"),
        ({}, dict(language="spanish"), "no token for the language"),
        ({}, dict(language=["en"]), "one for each of 2 rows"),
        ({}, dict(task="sing"), "expected one of"),
        ({}, dict(max_new_tokens=64), "more than the 64"),
        ({}, dict(prompt_condition_type="never"), "expected one of first-segment"),
        ({}, dict(prompt_condition_type="all-segments"), "needs condition_on_prev_tokens"),
        ({}, dict(no_speech_threshold=0.5), "needs logprob_threshold"),
        ({}, dict(temperature=()), "temperature is empty"),
        ({}, dict(max_new_token=5), "max_new_tokens"),
        ({}, dict(negative_prompt_ids=[[1]]), "negative_prompt_ids"),
        ({"is_multilingual": False}, dict(language="en"), "English only"),
        ({"lang_to_id": None}, dict(language="en"), "needs lang_to_id"),
        ({"alignment_heads": None}, dict(return_token_timestamps=True), "needs alignment_heads"),
        ({"no_timestamps_token_id": None}, dict(return_timestamps=True), "needs no_timestamps_token_id"),
    ],
    ids=lambda value: None,
)
def test_refusals(changes, options, complaint):
    _, ours = pair(**changes)
    options = dict(options)
    inputs = features(2, options.pop("frames", 100))
    with pytest.raises(ConfigError, match=complaint):
        ours.generate(inputs, **options)


def test_old_configs_force_tokens():
    changes = dict(forced_decoder_ids=((1, DE), (2, TRANSLATE), (3, MUTE)), lang_to_id=None, task_to_id=None)
    want, got = both(features(), changes, max_new_tokens=12, force_unique_generate_call=True)
    same(want, got)
    assert got[0, :4].tolist() == [START, DE, TRANSLATE, MUTE]


def test_first_tokens():
    _, ours = pair()
    out = ours.generate(features(), task="transcribe", force_unique_generate_call=True, **SHORT)
    assert out[0, :4].tolist() == [START, EN, TRANSCRIBE, MUTE]
    assert END < START < FIRST
