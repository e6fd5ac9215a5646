"""OLMo 2."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=96, max_position_embeddings=64, pad_token_id=0, eos_token_id=2,
)  # fmt: skip
OTHER = dict(
    num_key_value_heads=None, attention_bias=True, hidden_act="gelu", rms_norm_eps=1e-3, tie_word_embeddings=True,
    pad_token_id=None, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
)  # fmt: skip

ROWS = [
    Row("Olmo2ForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("Olmo2ForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True),
    Row("Olmo2ForCausalLM", {**SIZES, "head_dim": 24}, "CausalLM", text, "wide heads"),
    Row("Olmo2Model", SIZES, None, text),
    Row("Olmo2ForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
]
