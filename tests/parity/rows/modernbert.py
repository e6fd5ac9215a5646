"""ModernBERT."""

import numpy as np

from tests.parity.row import Inputs, Row, choices, text
from tests.parity.rows.bert import placed_text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=7, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=40, local_attention=6, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
    sep_token_id=2,
)  # fmt: skip
KINDS = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
OTHER = dict(
    hidden_size=36, num_hidden_layers=4, num_attention_heads=3, intermediate_size=50, hidden_activation="relu",
    norm_eps=1e-3, norm_bias=True, attention_bias=True, layer_types=KINDS, local_attention=9, mlp_bias=True,
    decoder_bias=False, classifier_pooling="mean", classifier_bias=True, classifier_activation="tanh",
    tie_word_embeddings=False, attention_dropout=0.1, embedding_dropout=0.1, mlp_dropout=0.1, classifier_dropout=0.2,
    sparse_prediction=True, initializer_cutoff_factor=3.0, initializer_range=0.1,
    rope_parameters={
        "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
        "sliding_attention": {
            "rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 16,
        },
    },
)  # fmt: skip
LABELS = {"num_labels": 5}


def padded_text(c, rng: np.random.RandomState) -> Inputs:
    """Text with padding left and right, so that pooling has something to leave out."""
    inputs = text(c, rng)
    inputs["attention_mask"][0, :3] = 0
    inputs["attention_mask"][1, -4:] = 0
    return inputs


def padded_choices(c, rng: np.random.RandomState) -> Inputs:
    """Choices with padding left and right."""
    inputs = choices(c, rng)
    inputs["attention_mask"][0, 1, :3] = 0
    inputs["attention_mask"][1, 0, -4:] = 0
    return inputs


ROWS = [
    Row("ModernBertModel", SIZES, None, text, full=True),
    Row("ModernBertModel", {**SIZES, **OTHER}, None, placed_text, "positions"),
    Row("ModernBertForMaskedLM", SIZES, "MaskedLM", text, full=True, gradient=True),
    Row("ModernBertForMaskedLM", {**SIZES, **OTHER}, "MaskedLM", text, "other", full=True),
    Row("ModernBertForMaskedLM", {**SIZES, "tie_word_embeddings": False}, "MaskedLM", text, "untied"),
    Row("ModernBertForSequenceClassification", {**SIZES, **LABELS}, "SequenceClassification", text),
    Row("ModernBertForSequenceClassification", {**SIZES, **OTHER}, "SequenceClassification", padded_text, "other"),
    Row("ModernBertForTokenClassification", {**SIZES, **LABELS}, "TokenClassification", text),
    Row("ModernBertForQuestionAnswering", SIZES, "QuestionAnswering", text),
    Row("ModernBertForMultipleChoice", SIZES, "MultipleChoice", padded_choices),
    Row("ModernBertForMultipleChoice", {**SIZES, **OTHER}, "MultipleChoice", padded_choices, "other"),
]
