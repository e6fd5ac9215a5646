"""wav2vec 2.0's features against transformers': padding, masks, normalisation, and files."""

import json

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.core.errors import CheckpointError, InputError
from jaxformers.hub.auto_feature_extractor import AutoFeatureExtractor
from jaxformers.processing.audio.wave_features import Wav2Vec2FeatureExtractor

RATE = 16000


def waves(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(lengths))
    return [(0.3 + rng.standard_normal(n) * (0.1 + i)).astype(np.float32) for i, n in enumerate(lengths)]


def compare(got, want) -> None:
    assert set(got) == set(want)
    for name in want:
        assert len(got[name]) == len(want[name])
        for ours, theirs in zip(got[name], want[name], strict=True):
            assert np.asarray(ours).dtype == np.asarray(theirs).dtype
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=3),
    padding=st.sampled_from([False, True, "longest", "max_length", "do_not_pad"]),
    truncation=st.booleans(),
    max_length=st.sampled_from([None, 7, 30]),
    multiple=st.sampled_from([None, 8]),
    mask=st.sampled_from([None, True, False]),
    normalise=st.booleans(),
    by_default=st.booleans(),
    value=st.sampled_from([0.0, -1.5]),
)
def test_equals_transformers(lengths, padding, truncation, max_length, multiple, mask, normalise, by_default, value):
    if max_length is None and (truncation or padding == "max_length"):
        max_length = 20
    options = dict(do_normalize=normalise, return_attention_mask=by_default, padding_value=value)
    call = dict(
        padding=padding,
        truncation=truncation,
        max_length=max_length,
        pad_to_multiple_of=multiple,
        return_attention_mask=mask,
        sampling_rate=RATE,
    )
    sounds = waves(*lengths)
    compare(
        Wav2Vec2FeatureExtractor(**options)(sounds, **call),
        transformers.Wav2Vec2FeatureExtractor(**options)(sounds, **call),
    )


@pytest.mark.parametrize("mask", [True, False])
def test_left_padding(mask):
    options = dict(padding_side="left", do_normalize=not mask, return_attention_mask=mask)
    call = dict(padding=True, sampling_rate=RATE, return_tensors="np")
    sounds = waves(20, 31)
    compare(
        Wav2Vec2FeatureExtractor(**options)(sounds, **call),
        transformers.Wav2Vec2FeatureExtractor(**options)(sounds, **call),
    )


def test_left_padding_is_refused_where_transformers_destroys_the_sound():
    extractor = Wav2Vec2FeatureExtractor(padding_side="left", return_attention_mask=True)
    with pytest.raises(InputError, match="measure the padding"):
        extractor(waves(3, 5), padding=True, sampling_rate=RATE)


def test_single_waves_and_tensors():
    ours, theirs = Wav2Vec2FeatureExtractor(), transformers.Wav2Vec2FeatureExtractor()
    sound = waves(40)[0]
    for given_as in (sound, sound.tolist(), sound[None]):
        got = ours(given_as, sampling_rate=RATE, return_tensors="np").input_values
        want = theirs(given_as, sampling_rate=RATE, return_tensors="np").input_values
        assert got.shape == want.shape == (1, 40)
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert type(ours(sound, sampling_rate=RATE, return_tensors="jax").input_values).__module__.startswith("jax")
    with pytest.raises(ValueError, match="different lengths"):
        ours(waves(3, 5), sampling_rate=RATE, return_tensors="np")


def test_collating():
    ours = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    theirs = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    rows = [{"input_values": wave} for wave in waves(20, 31)]
    for call in (dict(), dict(pad_to_multiple_of=16), dict(padding="max_length", max_length=40)):
        compare(ours.pad(rows, **call, return_tensors="np"), theirs.pad(rows, **call, return_tensors="np"))
    masked = {"input_values": waves(4, 6), "attention_mask": [np.int32([1, 1, 1, 0]), np.ones(6, np.int32)]}
    compare(ours.pad(masked, return_tensors="np"), theirs.pad(masked, return_tensors="np"))
    with pytest.raises(InputError, match="needs input_values"):
        ours.pad({"input_features": []})


def test_files(tmp_path):
    ours = Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False, padding_value=1.0)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "Wav2Vec2FeatureExtractor" and theirs.to_dict() == ours.to_dict()
    assert AutoFeatureExtractor.from_pretrained(tmp_path) == ours


def test_files_without_a_class(tmp_path):
    settings_ = {"do_normalize": False, "sampling_rate": 8000}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(settings_))
    with pytest.raises(CheckpointError, match="names no feature_extractor_type"):
        AutoFeatureExtractor.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
    assert AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == 8000
    file.write_text(json.dumps({"processor_class": "Wav2Vec2Processor"}))
    assert type(AutoFeatureExtractor.from_pretrained(file)) is Wav2Vec2FeatureExtractor
    file.write_text(json.dumps({"feature_extractor_type": "DetrFeatureExtractor"}))
    with pytest.raises(CheckpointError, match="AutoImageProcessor"):
        AutoFeatureExtractor.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match="has no preprocessor_config.json"):
        AutoFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoFeatureExtractor()


def test_bad_padding():
    extractor = Wav2Vec2FeatureExtractor()
    for call, complaint in (
        (dict(padding="wide"), "one of longest"),
        (dict(padding="max_length"), "needs max_length"),
        (dict(truncation=True), "needs max_length"),
    ):
        with pytest.raises(InputError, match=complaint):
            extractor(waves(9), sampling_rate=RATE, **call)
    with pytest.raises(InputError, match="right or left"):
        Wav2Vec2FeatureExtractor(padding_side="up")(waves(9), sampling_rate=RATE)
