"""Pipelines of sounds against transformers' on the same tiny checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers

import jaxformers as jf
from jaxformers import cli
from tests.generation.whisper_side import GENERATION, SPEECH
from tests.parity.rows.wav2vec2 import SIZES as WAVES
from tests.pipelines.test_text_pipelines import close
from tests.processing.whisper_zoo import write_whisper

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLU"]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return soundfile.read(SPEECH, dtype="float32")[0]


def perturbed(cls: str, scale: float, **config: Any) -> Any:
    """A random torch model."""
    kind = getattr(transformers, cls)
    transformers.set_seed(0)
    model = kind(kind.config_class(**config)).eval()
    for parameter in model.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("sound-pipelines")
    sizes = {k: v for k, v in WAVES.items() if k != "vocab_size"}
    masked = dict(sizes, feat_extract_norm="layer", conv_bias=True)
    for name, cls, config, mask in (
        ("ctc", "Wav2Vec2ForCTC", sizes, False),
        ("masked", "Wav2Vec2ForCTC", masked, True),
        ("classify", "Wav2Vec2ForSequenceClassification", {**sizes, "num_labels": 6}, False),
    ):
        model = perturbed(cls, 0.2, vocab_size=len(LETTERS), pad_token_id=0, **config)
        if cls.endswith("CTC"):
            model.lm_head.weight.data.normal_(std=3.0)  # so that the letters vary
        model.save_pretrained(home / name)
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=mask).save_pretrained(home / name)
        (home / name / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(LETTERS)}))
        transformers.Wav2Vec2CTCTokenizer(str(home / name / "vocab.json")).save_pretrained(home / name)
    folder = write_whisper(home / "whisper")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    end, start = ids("<|endoftext|>"), ids("<|startoftranscript|>")
    special = dict(pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start)
    sizes = dict(
        vocab_size=len(tokenizer), num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
        max_source_positions=50, max_target_positions=64, median_filter_width=3,
    )  # fmt: skip
    model = perturbed("WhisperForConditionalGeneration", 0.5, **sizes, **special)
    languages = {f"<|{code}|>": ids(f"<|{code}|>") for code in ("en", "de", "fr")}
    own = {
        **special,
        "is_multilingual": True,
        "lang_to_id": languages,
        "task_to_id": {"translate": ids("<|translate|>"), "transcribe": ids("<|transcribe|>")},
        "no_timestamps_token_id": ids("<|notimestamps|>"),
        "prev_sot_token_id": ids("<|startofprev|>"),
        "max_initial_timestamp_index": 20,
        "alignment_heads": GENERATION["alignment_heads"],
        "max_length": 24,
    }
    model.generation_config = transformers.GenerationConfig(**own)
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return {name: home / name for name in ("ctc", "masked", "classify", "whisper")}


def both(folders: dict[str, Path], name: str, task: str, **options: Any) -> tuple[Any, Any]:
    theirs = transformers.pipeline(task, model=str(folders[name]), device="cpu", **options)
    return jf.pipeline(task, folders[name], **options), theirs


def test_audio_classification(folders: dict[str, Path], speech: np.ndarray) -> None:
    ours, theirs = both(folders, "classify", "audio-classification")
    close(ours(speech), theirs(speech))
    close(ours([speech[:9000], speech[:16000]], top_k=2), theirs([speech[:9000], speech[:16000]], top_k=2))
    close(ours(str(SPEECH)), theirs(speech))
    close(ours({"array": speech, "sampling_rate": 16000}), theirs(speech))


@pytest.mark.parametrize("name", ["ctc", "masked"])
def test_ctc(folders: dict[str, Path], speech: np.ndarray, name: str) -> None:
    ours, theirs = both(folders, name, "automatic-speech-recognition")
    want = theirs(speech)
    assert len(want["text"]) > 5
    close(ours(speech), want)
    for kind in ("char", "word"):
        close(ours(speech, return_timestamps=kind), theirs(speech, return_timestamps=kind))
    pieces = dict(chunk_length_s=1.0, stride_length_s=(0.2, 0.1))
    close(ours(speech, **pieces), theirs(speech, **pieces))
    several = [speech[:20000], speech[:31000]]
    close(ours(several), [theirs(s) for s in several])
    given = {"raw": speech, "sampling_rate": 16000, "stride": (3200, 3200), "speaker": 3}
    close(ours(dict(given)), theirs(dict(given)))
    with pytest.raises(ValueError, match="takes 'char' or 'word'"):
        ours(speech, return_timestamps=True)


def test_whisper(folders: dict[str, Path], speech: np.ndarray) -> None:
    ours, theirs = both(folders, "whisper", "automatic-speech-recognition")
    options = dict(generate_kwargs=dict(language="en", task="transcribe", num_beams=1))
    short = speech[:12000]
    for extra in ({}, {"return_timestamps": True}, {"return_timestamps": "word"}):
        close(ours(short, **options, **extra), theirs(short, **options, **extra))
    stamped = dict(return_timestamps=True, **options)
    close(ours(speech, **stamped), theirs(speech, **stamped))  # longer than a window
    pieces = dict(chunk_length_s=1.0, ignore_warning=True, **stamped)
    close(ours(speech, **pieces), theirs(speech, **pieces))
    with pytest.raises(ValueError, match="'char'"):
        ours(short, return_timestamps="char")


def test_the_transcribe_command(
    folders: dict[str, Path], speech: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    want = jf.pipeline("automatic-speech-recognition", folders["ctc"])(speech, return_timestamps="word")
    arguments = ["transcribe", "--model", str(folders["ctc"]), "--words"]
    assert cli.main([*arguments, "--format", "json", str(SPEECH)]) == 0
    close(json.loads(capsys.readouterr().out), json.loads(json.dumps(want)))
    assert cli.main([*arguments, "--out", str(tmp_path / "speech.srt"), str(SPEECH)]) == 0
    cues = (tmp_path / "speech.srt").read_text().split("\n\n")
    assert len(cues) == len(want["chunks"]) and " --> " in cues[0]
    capsys.readouterr()
    assert cli.main([*arguments, "--language", "en", str(SPEECH)]) == 2
    assert "--language is for Whisper" in capsys.readouterr().err
