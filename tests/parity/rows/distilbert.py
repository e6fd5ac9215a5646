"""DistilBERT."""

from tests.parity.row import Row, choices, text
from tests.parity.rows.bert import placed_text

SIZES = dict(vocab_size=99, dim=64, n_layers=3, n_heads=4, hidden_dim=96, max_position_embeddings=40)
OTHER = dict(
    dim=36, n_layers=2, n_heads=3, hidden_dim=50, activation="relu", tie_word_embeddings=False, pad_token_id=5,
    sinusoidal_pos_embds=True, dropout=0.3, attention_dropout=0.2, qa_dropout=0.2, seq_classif_dropout=0.1,
    initializer_range=0.1,
)  # fmt: skip
LABELS = {"num_labels": 5}

ROWS = [
    Row("DistilBertModel", SIZES, None, text, full=True),
    Row("DistilBertModel", {**SIZES, **OTHER}, None, placed_text, "positions"),
    Row("DistilBertForMaskedLM", SIZES, "MaskedLM", text, full=True),
    Row("DistilBertForMaskedLM", {**SIZES, **OTHER}, "MaskedLM", text, "other", full=True),
    Row("DistilBertForSequenceClassification", {**SIZES, **LABELS}, "SequenceClassification", text, gradient=True),
    Row("DistilBertForSequenceClassification", {**SIZES, **OTHER}, "SequenceClassification", text, "other"),
    Row("DistilBertForTokenClassification", {**SIZES, **LABELS}, "TokenClassification", text),
    Row("DistilBertForQuestionAnswering", SIZES, "QuestionAnswering", text),
    Row("DistilBertForMultipleChoice", SIZES, "MultipleChoice", choices),
]
