"""T5."""

from typing import Any

import torch

from tests.parity.row import Row, seq2seq, text
from tests.parity.rows.bart import ended, masked

SIZES = dict(vocab_size=99, d_model=48, d_kv=8, d_ff=64, num_layers=3, num_heads=4, decoder_start_token_id=0)
OTHER = dict(
    d_kv=20, num_heads=3, num_layers=2, num_decoder_layers=3, feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-3,
    relative_attention_num_buckets=10, relative_attention_max_distance=7, tie_word_embeddings=False, pad_token_id=2,
    eos_token_id=4, decoder_start_token_id=5,
)  # fmt: skip
SILU = dict(feed_forward_proj="gated-silu", relative_attention_num_buckets=8, relative_attention_max_distance=20)


def own_head(model: Any) -> None:
    """The head of v1.1, which its checkpoints hold beside the words' table."""
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.all_tied_weights_keys.pop("lm_head.weight")


ROWS = [
    Row("T5ForConditionalGeneration", SIZES, "Seq2SeqLM", seq2seq, full=True, cached=True, gradient=True),
    Row("T5ForConditionalGeneration", {**SIZES, **OTHER}, "Seq2SeqLM", seq2seq, "other", full=True, cached=True),
    Row("T5ForConditionalGeneration", {**SIZES, **OTHER}, "Seq2SeqLM", seq2seq, "own head", cached=True,
        gradient=True, prepare=own_head),
    Row("T5ForConditionalGeneration", {**SIZES, **SILU}, "PreTraining", masked, "silu"),
    Row("T5Model", SIZES, None, masked, full=True),
    Row("T5Model", {**SIZES, **OTHER}, None, masked, "other"),
    Row("T5EncoderModel", SIZES, "TextEncoding", text, full=True),
    Row("T5EncoderModel", {**SIZES, **OTHER}, "TextEncoding", text, "other"),
    Row("T5ForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", ended),
    Row("T5ForSequenceClassification", {**SIZES, **OTHER}, "SequenceClassification", ended, "other"),
    Row("T5ForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("T5ForQuestionAnswering", SIZES, "QuestionAnswering", text),
]  # fmt: skip
