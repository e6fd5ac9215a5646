"""Mixtral."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=40, max_position_embeddings=64, pad_token_id=0, num_local_experts=4,
)  # fmt: skip
OTHER = dict(
    sliding_window=4, hidden_act="gelu", head_dim=16, tie_word_embeddings=True, rms_norm_eps=1e-3,
    num_key_value_heads=4, num_experts_per_tok=3, num_local_experts=5, router_jitter_noise=0.1,
    rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0},
)  # fmt: skip
# Large enough for the experts to be computed in groups.
LARGE = dict(hidden_size=128, intermediate_size=256, num_local_experts=8, num_hidden_layers=2)
ROUTER = {"output_router_logits": True}

ROWS = [
    Row("MixtralForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True, call=ROUTER),
    Row("MixtralForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True, call=ROUTER),
    Row("MixtralForCausalLM", {**SIZES, "output_router_logits": True}, "CausalLM", text, "router"),
    Row("MixtralForCausalLM", {**SIZES, **LARGE}, "CausalLM", text, "large", full=True, cached=True, gradient=True),
    Row("MixtralModel", SIZES, None, text, call=ROUTER),
    Row("MixtralForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("MixtralForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("MixtralForQuestionAnswering", SIZES, "QuestionAnswering", text),
]
