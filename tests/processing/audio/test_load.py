"""Sound files in every form people have them, equal to what transformers reads; and what is said of bad ones."""

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers.audio_utils import load_audio as theirs

from jaxformers.core.errors import InputError, MissingExtra
from jaxformers.processing.audio.load import load_audio
from jaxformers.processing.audio.wave_features import Wav2Vec2FeatureExtractor

SPEECH = Path(__file__).parent.parent.parent / "data" / "speech.flac"
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "mp3": None, "ogg": "VORBIS", "aiff": "PCM_16"}


def encode(kind: str, wave: np.ndarray, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind.upper(), subtype=FORMATS[kind])
    return file.getvalue()


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    return soundfile.read(SPEECH, dtype="float32")[0][8000:16000]


@pytest.mark.parametrize("rate", [16000, 8000, 22050, 44100])
def test_equals_transformers(rate):
    np.testing.assert_array_equal(load_audio(SPEECH, rate), theirs(str(SPEECH), rate, backend="soundfile"))


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_and_channels(kind, wave, tmp_path):
    stereo = np.stack([wave, wave[::-1]], axis=1)
    path = tmp_path / f"sound.{kind}"
    path.write_bytes(encode(kind, stereo, 44100))
    got = load_audio(path)
    assert got.dtype == np.float32 and got.ndim == 1
    np.testing.assert_array_equal(got, theirs(str(path), backend="soundfile"))


def test_every_way_to_give_a_file(wave, tmp_path):
    data = encode("wav", wave)
    path = tmp_path / "sound.wav"
    path.write_bytes(data)
    want = load_audio(path)
    text = base64.b64encode(data).decode()
    ways = [str(path), data, bytearray(data), f"data:audio/wav;base64,{text}", text]
    ways += [{"bytes": data, "path": None}, {"path": str(path)}, {"array": want, "sampling_rate": 16000}]
    ways += [{"raw": np.stack([want, want]), "sampling_rate": 16000}, want, want.astype(np.float64)]
    for way in ways:
        np.testing.assert_array_equal(load_audio(way), want)
    batch = Wav2Vec2FeatureExtractor(do_normalize=False)(ways[:4])
    assert all(np.array_equal(row, want) for row in batch.input_values)


def test_dictionaries_are_resampled(wave):
    got = load_audio({"array": wave, "sampling_rate": 8000}, 16000)
    assert len(got) == 2 * len(wave)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
def test_files_that_were_cut_off(kind, wave):
    data = encode(kind, wave)
    with pytest.raises(InputError, match="cut off"):
        load_audio(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut off"):
        load_audio(data[:12] + bytes(100))


def test_streams_of_unknown_length_are_whole(wave):
    data = bytearray(encode("wav", wave))
    data[4:8] = b"\xff" * 4
    assert len(load_audio(bytes(data))) == len(wave)


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (b"", "is empty"),
        (b"GIF89a" + bytes(99), "unknown format"),
        ("no/such/file.wav", "does not exist"),
        ({"array": np.zeros(9, np.float32)}, 'no "sampling_rate"'),
        ({"sound": 1}, 'needs "array"'),
        ({"array": np.zeros(9, np.int16), "sampling_rate": 16000}, "wave / 32768"),
        ({"array": np.zeros((9, 2), np.float32), "sampling_rate": 16000}, "transpose"),
        ({"array": np.zeros(9, np.float32), "sampling_rate": -1}, "positive"),
        (np.zeros(0, np.float32), "expected a wave"),
        (np.zeros((2, 3, 4), np.float32), "expected a wave"),
    ],
)
def test_complaints(bad, complaint):
    with pytest.raises(InputError, match=complaint):
        load_audio(bad)


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_the_extra_is_named(package, wave, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    source = SPEECH if package == "soundfile" else {"array": wave, "sampling_rate": 8000}
    with pytest.raises(MissingExtra, match=r"needs " + package + r".*pip install 'jaxformers\[audio\]'"):
        load_audio(source)
