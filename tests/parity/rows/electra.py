"""ELECTRA."""

from tests.parity.row import Row, choices, text, typed_text
from tests.parity.rows.bert import heard_text, placed_choices

SIZES = dict(
    vocab_size=99, embedding_size=24, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
    intermediate_size=96, max_position_embeddings=40,
)  # fmt: skip
OTHER = dict(
    embedding_size=36, hidden_size=36, num_hidden_layers=2, num_attention_heads=3, intermediate_size=50,
    hidden_act="relu", type_vocab_size=3, layer_norm_eps=1e-3, summary_type="mean", summary_use_proj=False,
    summary_activation="tanh", tie_word_embeddings=False, pad_token_id=3, initializer_range=0.1,
    classifier_dropout=0.2, summary_last_dropout=0.0,
)  # fmt: skip
DECODER = dict(is_decoder=True)
CROSS = dict(is_decoder=True, add_cross_attention=True, use_cache=False)
LABELS = {"num_labels": 5}

ROWS = [
    Row("ElectraModel", SIZES, None, typed_text, full=True),
    Row("ElectraForPreTraining", SIZES, "PreTraining", typed_text, gradient=True),
    Row("ElectraForPreTraining", {**SIZES, **OTHER}, "PreTraining", typed_text, "other"),
    Row("ElectraForMaskedLM", SIZES, "MaskedLM", typed_text, full=True),
    Row("ElectraForMaskedLM", {**SIZES, **OTHER}, "MaskedLM", typed_text, "other", full=True),
    Row("ElectraForCausalLM", {**SIZES, **DECODER}, "CausalLM", text, full=True, cached=True),
    Row("ElectraForCausalLM", {**SIZES, **OTHER, **CROSS}, "CausalLM", heard_text, "cross", full=True, cached=True),
    Row("ElectraForSequenceClassification", {**SIZES, **LABELS}, "SequenceClassification", typed_text),
    Row("ElectraForTokenClassification", {**SIZES, **LABELS}, "TokenClassification", typed_text),
    Row("ElectraForQuestionAnswering", SIZES, "QuestionAnswering", typed_text),
    Row("ElectraForMultipleChoice", SIZES, "MultipleChoice", choices),
    Row("ElectraForMultipleChoice", {**SIZES, **OTHER}, "MultipleChoice", placed_choices, "other"),
    Row("ElectraForMultipleChoice", {**SIZES, "summary_type": "last"}, "MultipleChoice", choices, "last"),
    Row("ElectraForMultipleChoice", {**SIZES, "summary_type": "cls_index"}, "MultipleChoice", choices, "index"),
]
