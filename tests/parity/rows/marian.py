"""Marian."""

from typing import Any

import torch

from tests.parity.row import Row, seq2seq, text
from tests.parity.rows.bart import beside, masked

SIZES = dict(
    vocab_size=99, d_model=48, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=2,
    encoder_ffn_dim=64, decoder_ffn_dim=80, max_position_embeddings=32, pad_token_id=98, decoder_start_token_id=98,
)  # fmt: skip
OTHER = dict(
    activation_function="swish", scale_embedding=True, tie_word_embeddings=False, pad_token_id=0, eos_token_id=1,
    encoder_layers=2, decoder_layers=2, d_model=45, encoder_attention_heads=3, decoder_attention_heads=5, init_std=0.1,
)  # fmt: skip
TWO = dict(share_encoder_decoder_embeddings=False, decoder_vocab_size=111, scale_embedding=True)


def sines(model: Any) -> None:
    """Translation models do not save their positions: undo the perturbation that no file can carry."""
    with torch.no_grad():
        for side in (model.model.encoder, model.model.decoder):
            side.embed_positions.weight.copy_(side.embed_positions.create_weight())


ROWS = [
    Row("MarianMTModel", SIZES, "Seq2SeqLM", seq2seq, full=True, cached=True, gradient=True, prepare=sines),
    Row("MarianMTModel", {**SIZES, **OTHER}, "Seq2SeqLM", seq2seq, "other", full=True, cached=True, prepare=sines),
    Row("MarianMTModel", {**SIZES, **TWO}, "Seq2SeqLM", seq2seq, "two vocabularies", cached=True, prepare=sines),
    Row("MarianMTModel", {**SIZES, **TWO, "tie_word_embeddings": False}, "Seq2SeqLM", seq2seq, "nothing shared",
        prepare=sines),
    Row("MarianModel", SIZES, None, masked, full=True),
    Row("MarianModel", {**SIZES, **OTHER}, None, masked, "other"),
    Row("MarianModel", {**SIZES, **TWO}, None, masked, "two vocabularies"),
    Row("MarianForCausalLM", SIZES, "CausalLM", text, full=True, cached=True),
    Row("MarianForCausalLM", {**SIZES, **OTHER}, "CausalLM", beside, "other"),
]  # fmt: skip
