"""Whisper."""

from typing import Any

import numpy as np

from tests.parity.row import BATCH, Inputs, Row, text

SIZES = dict(
    vocab_size=99, d_model=48, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=2,
    encoder_ffn_dim=64, decoder_ffn_dim=80, num_mel_bins=10, max_source_positions=12, max_target_positions=20,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip
OTHER = dict(
    activation_function="relu", scale_embedding=True, tie_word_embeddings=False, encoder_layers=2, decoder_layers=3,
    d_model=60, encoder_attention_heads=3, decoder_attention_heads=5, num_mel_bins=7, max_source_positions=9,
    apply_spec_augment=True, use_weighted_layer_sum=True, classifier_proj_size=16,
)  # fmt: skip


def hearing(c: Any, rng: np.random.RandomState) -> Inputs:
    """Mel features."""
    shape = (BATCH, c.num_mel_bins, 2 * c.max_source_positions)
    return {"input_features": rng.randn(*shape).astype(np.float32)}


def dictation(c: Any, rng: np.random.RandomState) -> Inputs:
    """Mel features in, text out."""
    return {**hearing(c, rng), "decoder_input_ids": rng.randint(3, c.vocab_size, (BATCH, 7))}


def masked(c: Any, rng: np.random.RandomState) -> Inputs:
    """Text that starts at other positions, with padding."""
    mask = np.ones((BATCH, 7), int)
    mask[1, -2:] = 0
    positions = np.stack([np.arange(7), np.arange(7) + 3])
    return {**dictation(c, rng), "decoder_attention_mask": mask, "decoder_position_ids": positions}


def beside(c: Any, rng: np.random.RandomState) -> Inputs:
    """Text for a decoder alone, and what it looks at."""
    return {**text(c, rng), "encoder_outputs": rng.randn(BATCH, 5, c.d_model).astype(np.float32)}


ROWS = [
    Row("WhisperForConditionalGeneration", SIZES, "SpeechSeq2Seq", dictation, full=True, cached=True, gradient=True),
    Row(
        "WhisperForConditionalGeneration", {**SIZES, **OTHER}, "SpeechSeq2Seq", dictation, "other", full=True,
        cached=True,
    ),
    Row("WhisperModel", SIZES, None, masked, full=True),
    Row("WhisperModel", {**SIZES, **OTHER}, None, masked, "other"),
    Row("WhisperForCausalLM", SIZES, "CausalLM", text, full=True, cached=True),
    Row("WhisperForCausalLM", {**SIZES, **OTHER, "decoder_layers": 2}, "CausalLM", beside, "other"),
    Row("WhisperForAudioClassification", {**SIZES, "num_labels": 5}, "AudioClassification", hearing),
    Row("WhisperForAudioClassification", {**SIZES, **OTHER}, "AudioClassification", hearing, "other", full=True),
]  # fmt: skip
