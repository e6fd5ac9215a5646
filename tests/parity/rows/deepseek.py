"""DeepSeek-V3."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
    intermediate_size=56, moe_intermediate_size=20, max_position_embeddings=64, pad_token_id=0, n_routed_experts=8,
    num_experts_per_tok=3, n_group=4, topk_group=2, first_k_dense_replace=1, kv_lora_rank=20, q_lora_rank=24,
    qk_rope_head_dim=8, qk_nope_head_dim=12, v_head_dim=10,
    rope_parameters={
        "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16,
        "mscale": 0.7, "mscale_all_dim": 1.3,
    },
)  # fmt: skip
OTHER = dict(
    q_lora_rank=None, rope_interleave=False, attention_bias=True, norm_topk_prob=False, n_shared_experts=3,
    routed_scaling_factor=0.7, hidden_act="gelu", tie_word_embeddings=True, rms_norm_eps=1e-3, n_group=1, topk_group=1,
    n_routed_experts=5, num_experts_per_tok=2, first_k_dense_replace=2, num_hidden_layers=3, v_head_dim=16,
    rope_parameters={"rope_type": "default", "rope_theta": 500.0},
)  # fmt: skip
ROUTER = {"output_router_logits": True}

ROWS = [
    Row("DeepseekV3ForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True, call=ROUTER),
    Row("DeepseekV3ForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True, call=ROUTER),
    Row("DeepseekV3ForCausalLM", {**SIZES, "attention_bias": True}, "CausalLM", text, "biases"),
    Row("DeepseekV3Model", SIZES, None, text, call=ROUTER),
    Row("DeepseekV3ForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("DeepseekV3ForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
]
