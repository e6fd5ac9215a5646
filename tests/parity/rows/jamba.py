"""Jamba."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=32, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=24, max_position_embeddings=64, pad_token_id=0, num_experts=4, attn_layer_period=4,
    attn_layer_offset=2, mamba_d_state=8,
)  # fmt: skip
OTHER = dict(
    num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=0, expert_layer_period=3, expert_layer_offset=0,
    mamba_conv_bias=False, mamba_proj_bias=True, mamba_expand=3, mamba_d_conv=3, mamba_dt_rank=5, hidden_act="gelu",
    tie_word_embeddings=True, rms_norm_eps=1e-3, num_experts=5, num_experts_per_tok=3, num_key_value_heads=4,
    use_mamba_kernels=False,
)  # fmt: skip
ROUTER = {"output_router_logits": True}

ROWS = [
    Row("JambaForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True, call=ROUTER),
    Row("JambaForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True, call=ROUTER),
    Row("JambaForCausalLM", {**SIZES, "num_experts": 1}, "CausalLM", text, "dense"),
    Row("JambaModel", SIZES, None, text, call=ROUTER),
    Row("JambaForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
]
