"""BART."""

from typing import Any

import numpy as np

from tests.parity.row import Inputs, Row, seq2seq, text

SIZES = dict(
    vocab_size=99, d_model=48, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=2,
    encoder_ffn_dim=64, decoder_ffn_dim=80, max_position_embeddings=32,
)  # fmt: skip
OTHER = dict(
    activation_function="relu", scale_embedding=True, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1,
    eos_token_id=3, decoder_start_token_id=5, encoder_layers=2, decoder_layers=3, d_model=60, encoder_attention_heads=3,
    decoder_attention_heads=5, init_std=0.1,
)  # fmt: skip


def masked(c: Any, rng: np.random.RandomState) -> Inputs:
    """Text in, text out, with padding on the decoder's side too."""
    inputs = seq2seq(c, rng)
    mask = np.ones_like(inputs["decoder_input_ids"])
    mask[0, -2:] = 0
    return {**inputs, "decoder_attention_mask": mask}


def ended(c: Any, rng: np.random.RandomState) -> Inputs:
    """Texts with two ends each, at different places, and no decoder inputs."""
    inputs = text(c, rng)
    ids = np.where(inputs["input_ids"] == c.eos_token_id, 7, inputs["input_ids"])
    ids[0, [3, 8]] = c.eos_token_id
    ids[1, [2, 10]] = c.eos_token_id
    return {**inputs, "input_ids": ids}


def beside(c: Any, rng: np.random.RandomState) -> Inputs:
    """Text for a decoder alone, and what it looks at."""
    states = rng.randn(2, 5, c.d_model).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return {**text(c, rng), "encoder_hidden_states": states, "encoder_attention_mask": mask}


ROWS = [
    Row("BartForConditionalGeneration", SIZES, "Seq2SeqLM", seq2seq, full=True, cached=True, gradient=True),
    Row(
        "BartForConditionalGeneration", {**SIZES, **OTHER}, "Seq2SeqLM", seq2seq, "other", full=True, cached=True,
        gradient=True,
    ),
    Row("BartForConditionalGeneration", SIZES, "MaskedLM", text, "shifted"),
    Row("BartForConditionalGeneration", SIZES, "PreTraining", masked, "masked"),
    Row("BartModel", SIZES, None, masked, full=True),
    Row("BartModel", {**SIZES, **OTHER}, None, text, "other"),
    Row("BartForCausalLM", SIZES, "CausalLM", text, full=True, cached=True),
    Row("BartForCausalLM", {**SIZES, **OTHER, "decoder_layers": 2}, "CausalLM", beside, "other", full=True),
    Row("BartForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", ended),
    Row("BartForSequenceClassification", {**SIZES, **OTHER}, "SequenceClassification", ended, "other"),
    Row("BartForQuestionAnswering", SIZES, "QuestionAnswering", text),
]  # fmt: skip
