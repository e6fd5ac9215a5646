"""Phi-3."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=96, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 5000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + 0.3 * i for i in range(8)],
}  # fmt: skip
OTHER = dict(
    num_key_value_heads=None, hidden_act="gelu_new", rms_norm_eps=1e-3, tie_word_embeddings=True, sliding_window=4,
    resid_pdrop=0.1, embd_pdrop=0.1, attention_dropout=0.1, original_max_position_embeddings=16, intermediate_size=50,
    rope_parameters=LONG,
)  # fmt: skip
PARTIAL = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}

ROWS = [
    Row("Phi3ForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("Phi3ForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True),
    Row(
        "Phi3ForCausalLM", {**SIZES, "original_max_position_embeddings": 8, "rope_parameters": LONG}, "CausalLM", text,
        "long",
    ),
    Row(
        "Phi3ForCausalLM", {**SIZES, "num_key_value_heads": 1, "rope_parameters": PARTIAL}, "CausalLM", text, "partial",
        full=True, cached=True,
    ),
    Row("Phi3ForCausalLM", {**SIZES, "head_dim": 24}, "CausalLM", text, "wide heads"),
    Row("Phi3Model", SIZES, None, text),
    Row("Phi3ForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("Phi3ForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
]  # fmt: skip
