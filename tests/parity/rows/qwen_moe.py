"""Qwen 3 MoE."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=56, moe_intermediate_size=20, max_position_embeddings=64, pad_token_id=0, num_experts=6,
    num_experts_per_tok=2, head_dim=12,
)  # fmt: skip
OTHER = dict(
    num_hidden_layers=5, decoder_sparse_step=2, mlp_only_layers=[1], norm_topk_prob=True, attention_bias=True,
    use_sliding_window=True, sliding_window=4, hidden_act="gelu", tie_word_embeddings=True, rms_norm_eps=1e-3,
    head_dim=16, num_experts=5, num_experts_per_tok=3,
    rope_parameters={
        "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16,
    },
)  # fmt: skip
ROUTER = {"output_router_logits": True}

ROWS = [
    Row("Qwen3MoeForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, call=ROUTER),
    Row("Qwen3MoeForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True, call=ROUTER),
    Row("Qwen3MoeForCausalLM", {**SIZES, "mlp_only_layers": [0, 1, 2]}, "CausalLM", text, "all dense"),
    Row("Qwen3MoeModel", SIZES, None, text, call=ROUTER),
    Row("Qwen3MoeForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("Qwen3MoeForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("Qwen3MoeForQuestionAnswering", SIZES, "QuestionAnswering", text),
]
