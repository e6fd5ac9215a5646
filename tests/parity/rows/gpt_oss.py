"""gpt-oss."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=40, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=24, max_position_embeddings=64, pad_token_id=0, num_local_experts=4, num_experts_per_tok=2,
    sliding_window=4, initializer_range=0.1,
    rope_parameters={
        "rope_type": "yarn", "rope_theta": 150000.0, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "truncate": False, "original_max_position_embeddings": 8,
    },
)  # fmt: skip
OTHER = dict(
    num_hidden_layers=3, layer_types=["full_attention", "full_attention", "sliding_attention"], attention_bias=False,
    swiglu_alpha=1.1, swiglu_limit=0.4, tie_word_embeddings=True, rms_norm_eps=1e-3, num_key_value_heads=4,
    num_local_experts=5, num_experts_per_tok=1, sliding_window=6, head_dim=12,
    rope_parameters={"rope_type": "default", "rope_theta": 500.0},
)  # fmt: skip
ROUTER = {"output_router_logits": True}

ROWS = [
    Row("GptOssForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True, call=ROUTER),
    Row("GptOssForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True, call=ROUTER),
    Row("GptOssModel", SIZES, None, text, call=ROUTER),
    Row("GptOssForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("GptOssForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
]
