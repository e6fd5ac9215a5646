"""Qwen 2 and Qwen 3."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=96, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
SIZES3 = {**SIZES, "head_dim": 24}
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16}
WINDOWS = dict(
    use_sliding_window=True, sliding_window=4, max_window_layers=2, num_hidden_layers=5, tie_word_embeddings=True,
    hidden_act="gelu_new", rms_norm_eps=1e-3, num_key_value_heads=1, rope_parameters=YARN,
)  # fmt: skip
MIXED = dict(
    use_sliding_window=True, sliding_window=3, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    num_key_value_heads=4, intermediate_size=50, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
)  # fmt: skip
LABELS = {**SIZES, "num_labels": 5}
LABELS3 = {**SIZES3, "num_labels": 5}

ROWS = [
    Row("Qwen2ForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("Qwen2ForCausalLM", {**SIZES, **WINDOWS}, "CausalLM", text, "windows", full=True, cached=True),
    Row("Qwen2ForCausalLM", {**SIZES, **MIXED}, "CausalLM", text, "mixed", full=True, cached=True),
    Row("Qwen2ForCausalLM", {**SIZES, "head_dim": 32}, "CausalLM", text, "wide heads", cached=True),
    Row("Qwen2Model", SIZES, None, text),
    Row("Qwen2ForSequenceClassification", LABELS, "SequenceClassification", text),
    Row("Qwen2ForTokenClassification", LABELS, "TokenClassification", text),
    Row("Qwen2ForQuestionAnswering", SIZES, "QuestionAnswering", text),
    Row("Qwen3ForCausalLM", SIZES3, "CausalLM", text, full=True, cached=True, gradient=True),
    Row(
        "Qwen3ForCausalLM", {**SIZES3, **WINDOWS, "attention_bias": True}, "CausalLM", text, "windows", full=True,
        cached=True,
    ),
    Row("Qwen3ForCausalLM", {**SIZES3, **MIXED}, "CausalLM", text, "mixed", full=True, cached=True),
    Row("Qwen3Model", SIZES3, None, text),
    Row("Qwen3ForSequenceClassification", LABELS3, "SequenceClassification", text),
    Row("Qwen3ForTokenClassification", LABELS3, "TokenClassification", text),
    Row("Qwen3ForQuestionAnswering", SIZES3, "QuestionAnswering", text),
]  # fmt: skip
