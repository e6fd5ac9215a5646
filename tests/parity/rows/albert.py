"""ALBERT."""

from tests.parity.row import Row, choices, typed_text
from tests.parity.rows.bert import placed_text

SIZES = dict(
    vocab_size=99, embedding_size=24, hidden_size=64, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=96, max_position_embeddings=40,
)  # fmt: skip
OTHER = dict(
    embedding_size=36, hidden_size=36, num_hidden_layers=5, num_hidden_groups=3, inner_group_num=2,
    num_attention_heads=3, intermediate_size=50, hidden_act="relu", type_vocab_size=3, layer_norm_eps=1e-3,
    tie_word_embeddings=False, pad_token_id=None, initializer_range=0.1,
)  # fmt: skip
LABELS = {"num_labels": 5}

ROWS = [
    Row("AlbertModel", SIZES, None, typed_text, full=True),
    Row("AlbertModel", {**SIZES, **OTHER, "embedding_size": 24}, None, typed_text, "other", full=True),
    Row("AlbertModel", {**SIZES, **OTHER}, None, placed_text, "positions"),
    Row("AlbertForPreTraining", {**SIZES, **LABELS}, "PreTraining", typed_text),
    Row("AlbertForPreTraining", {**SIZES, **OTHER}, "PreTraining", typed_text, "other"),
    Row("AlbertForMaskedLM", SIZES, "MaskedLM", typed_text, full=True),
    Row("AlbertForMaskedLM", {**SIZES, **OTHER}, "MaskedLM", typed_text, "other", full=True, gradient=True),
    Row("AlbertForSequenceClassification", {**SIZES, **LABELS}, "SequenceClassification", typed_text),
    Row("AlbertForTokenClassification", {**SIZES, **LABELS}, "TokenClassification", typed_text),
    Row("AlbertForQuestionAnswering", SIZES, "QuestionAnswering", typed_text),
    Row("AlbertForMultipleChoice", SIZES, "MultipleChoice", choices),
]
