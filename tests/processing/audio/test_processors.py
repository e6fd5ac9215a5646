"""Speech processors load what transformers saves, answer as its do, and save what it loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import transformers

import jaxformers as jf
from jaxformers.core.errors import InputError
from tests.processing.whisper_zoo import write_whisper

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLU"]
RATE = 16000


def wave(samples: int = 3000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_whisper(tmp_path_factory.mktemp("whisper"))
    tokenizer = transformers.WhisperTokenizer.from_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    transformers.WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    return folder


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wav2vec2")
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(LETTERS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
    return folder


def equal(got, want) -> None:
    assert set(got) == set(want)
    for name in want:
        for ours, theirs in zip(got[name], want[name], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)  # transformers takes its float32 path here


@pytest.mark.parametrize("which", ["whisper", "wav2vec2"])
def test_equals_transformers(which, request, tmp_path):
    folder = request.getfixturevalue(which)
    ours, theirs = jf.AutoProcessor.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder)
    assert type(ours).__name__ == type(theirs).__name__
    assert ours.feature_extractor.to_dict() == theirs.feature_extractor.to_dict()
    sounds, texts = [wave(), wave(2000)], ["HEAR THIS", "AND THAT"]
    for given in (dict(audio=sounds, sampling_rate=RATE), dict(text=texts)):
        equal(ours(**given), theirs(**given))
    both = dict(audio=sounds, text=texts, sampling_rate=RATE)
    equal({"labels": ours(**both)["labels"]}, {"labels": theirs(**both)["labels"]})
    ids = ours(text=texts)["input_ids"]
    assert ours.batch_decode(ids) == theirs.batch_decode(ids)
    assert ours.decode(ids[0], skip_special_tokens=True) == theirs.decode(ids[0], skip_special_tokens=True)

    ours.save_pretrained(tmp_path)
    again = transformers.AutoProcessor.from_pretrained(tmp_path)
    equal(again(**both), theirs(**both))
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["processor_class"] == type(ours).__name__


def test_prompts_of_whisper(whisper):
    ours, theirs = jf.AutoProcessor.from_pretrained(whisper), transformers.AutoProcessor.from_pretrained(whisper)
    asked = dict(task="translate", language="german")
    assert list(map(tuple, ours.get_decoder_prompt_ids(**asked))) == theirs.get_decoder_prompt_ids(**asked)
    np.testing.assert_array_equal(ours.get_prompt_ids("hello"), theirs.get_prompt_ids("hello"))


def test_collating(wav2vec2):
    ours, theirs = jf.AutoProcessor.from_pretrained(wav2vec2), transformers.AutoProcessor.from_pretrained(wav2vec2)
    rows, labels = [{"input_values": wave(n)} for n in (5, 9)], [{"input_ids": [7, 8]}, {"input_ids": [9]}]
    for given in (dict(input_features=rows), dict(labels=labels), dict(input_features=rows, labels=labels)):
        equal(ours.pad(**given, return_tensors="np"), theirs.pad(**given, return_tensors="np"))
    with pytest.raises(InputError, match="nothing to pad"):
        ours.pad()


def test_options_go_where_they_belong(wav2vec2):
    processor = jf.AutoProcessor.from_pretrained(wav2vec2)
    out = processor(
        audio=[wave(5), wave(9)],
        text=["A", "TEN"],
        sampling_rate=RATE,
        audio_kwargs={"padding": True, "return_tensors": "np"},
        text_kwargs={"padding": "max_length", "max_length": 6},
    )
    assert out.input_values.shape == (2, 9) and [len(row) for row in out["labels"]] == [6, 6]
    with pytest.raises(TypeError, match="takes no volume"):
        processor(audio=wave(), sampling_rate=RATE, volume=3)
    with pytest.raises(InputError, match="nothing to process"):
        processor()
