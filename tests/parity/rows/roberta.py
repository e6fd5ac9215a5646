"""RoBERTa and XLM-RoBERTa."""

import numpy as np

from tests.parity.row import Inputs, Row, choices, text, typed_text
from tests.parity.rows.bert import heard_text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=40, type_vocab_size=2,
)  # fmt: skip
OTHER = dict(
    hidden_act="relu", type_vocab_size=5, layer_norm_eps=1e-3, tie_word_embeddings=False, pad_token_id=7,
    num_attention_heads=2, hidden_size=36, num_hidden_layers=2, classifier_dropout=0.3, initializer_range=0.1,
)  # fmt: skip
DECODER = dict(is_decoder=True)
CROSS = dict(is_decoder=True, add_cross_attention=True, use_cache=False)


def padded_text(c, rng: np.random.RandomState) -> Inputs:
    """Text whose ids hold padding at both ends and within, which shifts positions."""
    inputs = typed_text(c, rng)
    inputs["input_ids"][0, -3:] = c.pad_token_id
    inputs["input_ids"][1, :2] = c.pad_token_id
    inputs["input_ids"][1, 5] = c.pad_token_id
    return inputs


def embedded_text(c, rng: np.random.RandomState) -> Inputs:
    """Embeddings in place of ids."""
    inputs = typed_text(c, rng)
    ids = inputs.pop("input_ids")
    return {**inputs, "inputs_embeds": rng.randn(*ids.shape, c.hidden_size).astype(np.float32)}


ROWS = [
    row
    for name in ("Roberta", "XLMRoberta")
    for row in (
        Row(f"{name}Model", SIZES, None, typed_text, full=True),
        Row(f"{name}Model", SIZES, None, padded_text, "padding ids"),
        Row(f"{name}Model", SIZES, None, embedded_text, "embeddings"),
        Row(f"{name}ForMaskedLM", SIZES, "MaskedLM", padded_text, full=True),
        Row(f"{name}ForMaskedLM", {**SIZES, **OTHER}, "MaskedLM", padded_text, "other", full=True),
        Row(f"{name}ForCausalLM", {**SIZES, **DECODER}, "CausalLM", text, full=True, cached=True),
        Row(f"{name}ForCausalLM", {**SIZES, **CROSS}, "CausalLM", heard_text, "cross", full=True, cached=True),
        Row(f"{name}ForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "both ways"),
        Row(f"{name}ForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", typed_text),
        Row(f"{name}ForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", typed_text),
        Row(f"{name}ForQuestionAnswering", SIZES, "QuestionAnswering", typed_text),
        Row(f"{name}ForMultipleChoice", SIZES, "MultipleChoice", choices),
    )
]
