"""SmolLM3."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=96, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
WINDOWS = dict(
    use_sliding_window=True, sliding_window=4, no_rope_layer_interval=2, attention_bias=True, mlp_bias=True,
    hidden_act="gelu", rms_norm_eps=1e-3, tie_word_embeddings=False, num_key_value_heads=None,
    rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
)  # fmt: skip
LISTED = dict(
    no_rope_layers=[0, 1, 1, 0, 1], sliding_window=3, num_key_value_heads=1,
    layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
)  # fmt: skip
LABELS = {**SIZES, "num_labels": 5}

ROWS = [
    Row("SmolLM3ForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("SmolLM3ForCausalLM", {**SIZES, **WINDOWS}, "CausalLM", text, "windows", full=True, cached=True),
    Row("SmolLM3ForCausalLM", {**SIZES, **LISTED}, "CausalLM", text, "listed", full=True, cached=True),
    Row("SmolLM3ForCausalLM", {**SIZES, "head_dim": 24}, "CausalLM", text, "wide heads"),
    Row("SmolLM3Model", SIZES, None, text),
    Row("SmolLM3ForSequenceClassification", LABELS, "SequenceClassification", text),
    Row("SmolLM3ForTokenClassification", LABELS, "TokenClassification", text),
    Row("SmolLM3ForQuestionAnswering", SIZES, "QuestionAnswering", text),
]
