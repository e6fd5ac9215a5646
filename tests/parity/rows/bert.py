"""BERT."""

from tests.parity.row import Row, choices, text, typed_text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=64,
)  # fmt: skip
OTHER = dict(hidden_act="gelu_new", type_vocab_size=5, layer_norm_eps=1e-3, tie_word_embeddings=False)
DECODER = dict(is_decoder=True)

ROWS = [
    Row("BertModel", SIZES, None, typed_text, full=True),
    Row("BertForMaskedLM", SIZES, "MaskedLM", typed_text, full=True, gradient=True),
    Row("BertForMaskedLM", {**SIZES, **OTHER}, "MaskedLM", typed_text, "other", full=True),
    Row("BertForPreTraining", SIZES, "PreTraining", typed_text),
    Row("BertForPreTraining", {**SIZES, **OTHER}, "PreTraining", typed_text, "other"),
    Row("BertLMHeadModel", {**SIZES, **DECODER}, "CausalLM", text, full=True, cached=True),
    Row("BertForNextSentencePrediction", SIZES, "NextSentencePrediction", typed_text),
    Row("BertForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", typed_text),
    Row("BertForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", typed_text),
    Row("BertForQuestionAnswering", SIZES, "QuestionAnswering", typed_text),
    Row("BertForMultipleChoice", SIZES, "MultipleChoice", choices),
]
