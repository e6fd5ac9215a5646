"""Granite."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=96, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
FACTORS = dict(embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22, attention_multiplier=0.0625)
OTHER = dict(
    num_key_value_heads=None, attention_bias=True, mlp_bias=True, hidden_act="gelu_new", rms_norm_eps=1e-3,
    tie_word_embeddings=True, embedding_multiplier=3, logits_scaling=2, residual_multiplier=1.5,
    attention_multiplier=0.3,
    rope_parameters={"rope_type": "yarn", "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 32},
)  # fmt: skip

ROWS = [
    Row("GraniteForCausalLM", SIZES, "CausalLM", text, full=True, cached=True),
    Row("GraniteForCausalLM", {**SIZES, **FACTORS}, "CausalLM", text, "factors", full=True, cached=True, gradient=True),
    Row("GraniteForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True),
    Row("GraniteForCausalLM", {**SIZES, "head_dim": 24}, "CausalLM", text, "wide heads"),
    Row("GraniteModel", {**SIZES, **FACTORS}, None, text),
]
