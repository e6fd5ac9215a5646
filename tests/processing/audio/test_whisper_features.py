"""Whisper's features against transformers': every option, old and new files, and files written for it."""

import json
import warnings

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.core.errors import ConfigError, InputError
from jaxformers.hub.auto_feature_extractor import AutoFeatureExtractor
from jaxformers.processing.audio.whisper_features import WhisperFeatureExtractor

RATE = 16000
TINY = dict(chunk_length=2, feature_size=16)


def wave(samples: int, seed: int = 0) -> np.ndarray:
    """A chirp in noise: loud and quiet bands in every frame."""
    t = np.arange(samples) / RATE
    noise = np.random.default_rng(seed).standard_normal(samples) * 0.01
    return (0.5 * np.sin(2 * np.pi * (200 + 900 * t) * t) + noise).astype(np.float32)


def reference(extractor: transformers.WhisperFeatureExtractor, monkeypatch: pytest.MonkeyPatch):
    """transformers' numpy path, which is the definition; its torch path is float32 and less exact."""
    monkeypatch.setattr(
        "transformers.models.whisper.feature_extraction_whisper.is_torch_available", lambda: False, raising=True
    )
    return extractor


CALLS = {
    "default": {},
    "longest": dict(padding="longest"),
    "long": dict(padding="longest", truncation=False),
    "mask": dict(return_attention_mask=True),
    "normalised": dict(do_normalize=True),
    "normalised mask": dict(do_normalize=True, return_attention_mask=True, padding="longest", truncation=False),
    "max_length": dict(max_length=20000, return_attention_mask=True),
    "multiple": dict(padding="longest", pad_to_multiple_of=1000, return_attention_mask=True, truncation=False),
    "odd": dict(padding="longest", return_attention_mask=True, truncation=False, max_length=12345),
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_transformers(name, monkeypatch):
    waves = [wave(9000), wave(40001, 1), wave(25123, 2)]
    ours, theirs = WhisperFeatureExtractor(**TINY), transformers.WhisperFeatureExtractor(**TINY)
    theirs = reference(theirs, monkeypatch)
    got = ours(waves, sampling_rate=RATE, return_tensors="np", **CALLS[name])
    want = theirs(waves, sampling_rate=RATE, return_tensors="np", **CALLS[name])
    names = set(want) if CALLS[name].get("return_attention_mask") else set(want) - {"attention_mask"}
    assert set(got) == names
    assert got.input_features.dtype == np.float32
    np.testing.assert_allclose(got.input_features, want.input_features, atol=1e-6)
    if "attention_mask" in got:
        np.testing.assert_array_equal(got.attention_mask, want.attention_mask)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_value_and_side(side, monkeypatch):
    options = dict(TINY, padding_value=0.1, padding_side=side)
    got = WhisperFeatureExtractor(**options)(wave(5000), sampling_rate=RATE, return_attention_mask=True)
    theirs = reference(transformers.WhisperFeatureExtractor(**options), monkeypatch)
    want = theirs(wave(5000), sampling_rate=RATE, return_attention_mask=True)
    np.testing.assert_allclose(got.input_features, want.input_features, atol=1e-6)
    np.testing.assert_array_equal(got.attention_mask, want.attention_mask)


def test_real_sizes(monkeypatch):
    sounds = [wave(123_456), wave(16_000, 1)]
    for size in (80, 128):
        theirs = reference(transformers.WhisperFeatureExtractor(feature_size=size), monkeypatch)
        got = WhisperFeatureExtractor(feature_size=size)(sounds, sampling_rate=RATE, return_tensors="np")
        want = theirs(sounds, sampling_rate=RATE, return_tensors="np")
        assert got.input_features.shape == (2, size, 3000)
        np.testing.assert_allclose(got.input_features, want.input_features, atol=1e-6)


def test_within_the_exactness_of_the_torch_path():
    """What users of transformers with torch see: float32, which its own numpy path differs from as much as we do."""
    got = WhisperFeatureExtractor(**TINY)(wave(32000), sampling_rate=RATE).input_features
    theirs = transformers.WhisperFeatureExtractor(**TINY)
    want = theirs(wave(32000), sampling_rate=RATE, return_tensors="np").input_features
    np.testing.assert_allclose(got, want, atol=1e-4)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    n_fft=st.sampled_from([200, 256, 400, 401]),
    hop=st.integers(50, 300),
    samples=st.integers(800, 20000),
    rate=st.sampled_from([16000, 22050]),
)
def test_any_transform(n_fft, hop, samples, rate):
    options = dict(n_fft=n_fft, hop_length=hop, sampling_rate=rate, feature_size=8, chunk_length=1)
    sound = wave(samples)
    got = WhisperFeatureExtractor(**options)(sound, sampling_rate=rate, padding="longest", truncation=False)
    want = transformers.WhisperFeatureExtractor(**options)._np_extract_fbank_features([sound], "cpu")
    np.testing.assert_allclose(got.input_features, want, atol=1e-6)


def test_inputs_people_have():
    extractor = WhisperFeatureExtractor(**TINY)
    sound = wave(3000)
    want = extractor(sound, sampling_rate=RATE).input_features
    for same in (
        sound.tolist(),
        [sound],
        sound[None],
        sound.astype(np.float64),
        {"array": sound, "sampling_rate": RATE},
    ):
        np.testing.assert_allclose(extractor(same, sampling_rate=RATE).input_features, want, atol=1e-6)
    assert extractor([sound.tolist()] * 2, sampling_rate=RATE).input_features.shape == (2, 16, 200)


def test_frames_of_each_wave():
    extractor = WhisperFeatureExtractor(**TINY)
    out = extractor([wave(3200), wave(1601)], sampling_rate=RATE, return_token_timestamps=True)
    assert out.num_frames.tolist() == [20, 10]


def test_dither_adds_noise():
    quiet = np.zeros(32000, np.float32)
    still = WhisperFeatureExtractor(**TINY)(quiet, sampling_rate=RATE).input_features
    loud = WhisperFeatureExtractor(**TINY, dither=0.1)(quiet, sampling_rate=RATE).input_features
    assert np.ptp(still) == 0 and loud.mean() > still.mean() + 0.5


def test_files_are_transformers(tmp_path):
    ours = WhisperFeatureExtractor(feature_size=128, chunk_length=20, dither=0.25, own="kept")
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "WhisperFeatureExtractor"
    assert theirs.to_dict() == ours.to_dict()
    assert theirs.n_samples == ours.n_samples == 320000 and theirs.own == "kept"
    np.testing.assert_allclose(ours.mel_filters, theirs.mel_filters, atol=1e-12)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert again == ours and again != WhisperFeatureExtractor()


def test_old_and_nested_files(tmp_path):
    theirs = transformers.WhisperFeatureExtractor(feature_size=24)
    old = {**theirs.to_dict(), "mel_filters": [[0.0]], "processor_class": "WhisperProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == theirs.to_dict()
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "preprocessor_config.json").feature_size == 24
    nested = {"feature_extractor": {**theirs.to_dict(), "feature_size": 32}, "processor_class": "WhisperProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert AutoFeatureExtractor.from_pretrained(tmp_path).feature_size == 32
    assert AutoFeatureExtractor.from_pretrained(tmp_path, feature_size=40).feature_size == 40


def test_refusals(tmp_path):
    extractor = WhisperFeatureExtractor(**TINY)
    with pytest.raises(InputError, match="16000 Hz and the sound has 8000"):
        extractor(wave(3000), sampling_rate=8000)
    with pytest.warns(UserWarning, match="sampling_rate=16000"):
        extractor(wave(3000))
    with pytest.raises(InputError, match="mono"):
        extractor(np.zeros((1, 2, 30), np.float32), sampling_rate=RATE)
    with pytest.raises(InputError, match="wave / 32768"):
        extractor(np.zeros(3000, np.int16), sampling_rate=RATE)
    with pytest.raises(InputError, match="different lengths"):
        extractor([wave(3000), wave(40000)], sampling_rate=RATE, truncation=False)
    with pytest.raises(InputError, match="too few"):
        extractor(wave(100), sampling_rate=RATE, padding=False)
    with pytest.raises(InputError, match="at least one wave"):
        extractor([], sampling_rate=RATE)
    with pytest.raises(ConfigError, match="n_fft"):
        WhisperFeatureExtractor(n_fft=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor({"array": wave(3000), "sampling_rate": RATE})  # says its own rate
