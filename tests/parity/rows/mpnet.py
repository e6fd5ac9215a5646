"""MPNet."""

import numpy as np

from tests.parity.row import Inputs, Row, choices, text
from tests.parity.rows.bert import placed_text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=60,
)  # fmt: skip
OTHER = dict(
    hidden_size=36, num_hidden_layers=2, num_attention_heads=3, intermediate_size=50, hidden_act="silu",
    layer_norm_eps=1e-3, relative_attention_num_buckets=40, tie_word_embeddings=False, pad_token_id=4,
    max_position_embeddings=300, initializer_range=0.1,
)  # fmt: skip
LABELS = {"num_labels": 5}


def padded_text(c, rng: np.random.RandomState) -> Inputs:
    """Text with padding ids, which shift positions."""
    inputs = text(c, rng)
    inputs["input_ids"][0, -3:] = 1
    inputs["input_ids"][1, [0, 5]] = 1
    return inputs


def long_text(c, rng: np.random.RandomState) -> Inputs:
    """Long enough to fill every bucket of distances."""
    return {"input_ids": rng.randint(3, c.vocab_size, (1, 250))}


ROWS = [
    Row("MPNetModel", SIZES, None, padded_text, full=True),
    Row("MPNetModel", SIZES, None, placed_text, "positions"),
    Row("MPNetModel", {**SIZES, **OTHER}, None, long_text, "long"),
    Row("MPNetForMaskedLM", SIZES, "MaskedLM", text, full=True),
    Row("MPNetForMaskedLM", {**SIZES, **OTHER}, "MaskedLM", padded_text, "other", full=True),
    Row("MPNetForSequenceClassification", {**SIZES, **LABELS}, "SequenceClassification", text, gradient=True),
    Row("MPNetForTokenClassification", {**SIZES, **LABELS}, "TokenClassification", text),
    Row("MPNetForQuestionAnswering", SIZES, "QuestionAnswering", text),
    Row("MPNetForMultipleChoice", SIZES, "MultipleChoice", choices),
]
