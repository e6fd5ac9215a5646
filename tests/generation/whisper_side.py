"""A tiny whisper with every kind of special token, on both sides, and sounds for it."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import torch
import transformers

import jaxformers as jf
from jaxformers.processing.audio.whisper_features import WhisperFeatureExtractor

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)

SPEECH = Path(__file__).parent.parent / "data" / "speech.flac"
SEED = 8
TEXT = 50  # tokens of text; then the end, the start, three languages, two tasks and the rest as in real vocabularies
END, START, EN, DE, FR, TRANSLATE, TRANSCRIBE, LM, PREVIOUS, SILENCE, MUTE = range(TEXT, TEXT + 11)
FIRST = MUTE + 1  # the timestamp of 0.0 seconds
STATES = 50  # of the encoder: a second of sound
FRAMES = 2 * STATES
SIZES = dict(
    vocab_size=FIRST + STATES + 1,
    num_mel_bins=8,
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    max_source_positions=STATES,
    max_target_positions=64,
    pad_token_id=END,
    bos_token_id=END,
    eos_token_id=END,
    decoder_start_token_id=START,
    suppress_tokens=None,
    begin_suppress_tokens=None,
    median_filter_width=3,
)
GENERATION = dict(
    decoder_start_token_id=START,
    eos_token_id=END,
    pad_token_id=END,
    bos_token_id=END,
    is_multilingual=True,
    lang_to_id={"<|en|>": EN, "<|de|>": DE, "<|fr|>": FR},
    task_to_id={"translate": TRANSLATE, "transcribe": TRANSCRIBE},
    no_timestamps_token_id=MUTE,
    prev_sot_token_id=PREVIOUS,
    suppress_tokens=[1, 2, START, EN, DE, FR, TRANSLATE, TRANSCRIBE, LM, PREVIOUS, SILENCE],
    begin_suppress_tokens=[3, END],
    max_initial_timestamp_index=20,
    alignment_heads=[[0, 1], [0, 0]],
    max_length=24,
)


@cache
def pair(**changes: Any) -> tuple[Any, jf.Model]:
    """The same perturbed model in torch and here; `changes` are of the generation config, None takes a key out."""
    torch.manual_seed(SEED)
    theirs = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(**SIZES, attn_implementation="eager")
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        # So that it writes what it hears and where it is, not one word over and over.
        theirs.model.decoder.embed_positions.weight.mul_(12)
        theirs.model.decoder.embed_tokens.weight[:TEXT].mul_(1.2)
        theirs.model.decoder.embed_tokens.weight[END].mul_(1.5)
        for layer in theirs.model.decoder.layers:
            layer.encoder_attn.out_proj.weight.mul_(10)
    said = {name: value for name, value in {**GENERATION, **changes}.items() if value is not None}
    theirs.generation_config = transformers.GenerationConfig(**said)
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, jf.AutoModelForSpeechSeq2Seq.from_pretrained(folder)


def features(rows: int = 2, frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    """Random features that change slowly, as sound does."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((rows, SIZES["num_mel_bins"], frames)).astype(np.float32)
    return np.cumsum(steps, axis=-1) / 4


def spoken() -> np.ndarray:
    """Features of the spoken sentence, whole."""
    wave = soundfile.read(SPEECH, dtype="float32")[0]
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    return extractor(wave, sampling_rate=16000, truncation=False, padding="longest").input_features


def both(inputs: np.ndarray, changes: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any]:
    """What transformers and we generate; arrays among the options become tensors there."""
    theirs, ours = pair(**(changes or {}))
    tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    theirs.model.decoder.config._attn_implementation = "eager"
    with torch.no_grad():
        want = theirs.generate(torch.tensor(inputs), **tensors)
    return want, ours.generate(input_features=inputs, **options)


def same(want: Any, got: Any) -> None:
    """Equal tokens, or equal dictionaries with segments and times."""
    if isinstance(want, torch.Tensor):
        np.testing.assert_array_equal(np.asarray(got), want.numpy())
        return
    assert set(want) == set(got)
    same(want["sequences"], got["sequences"])
    if "token_timestamps" in want:
        np.testing.assert_allclose(got["token_timestamps"], want["token_timestamps"].numpy(), atol=1e-5)
    for ours, theirs in zip(got.get("segments", ()), want.get("segments", ()), strict=True):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one["tokens"], other["tokens"].numpy())
            np.testing.assert_allclose([one["start"], one["end"]], [float(other["start"]), float(other["end"])])
            assert one["idxs"] == tuple(other["idxs"])
            if "token_timestamps" in other:
                np.testing.assert_allclose(one["token_timestamps"], other["token_timestamps"].numpy(), atol=1e-5)
