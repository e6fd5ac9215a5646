"""Mamba and Mamba-2."""

from tests.parity.row import Row, text

SIZES = dict(vocab_size=99, hidden_size=32, state_size=8, num_hidden_layers=3, pad_token_id=0)
OTHER = dict(
    use_bias=True, use_conv_bias=False, hidden_act="gelu", expand=3, conv_kernel=3, time_step_rank=5,
    residual_in_fp32=False, layer_norm_epsilon=1e-3, tie_word_embeddings=False,
)  # fmt: skip
LONE = dict(conv_kernel=1, num_hidden_layers=1, use_bias=True, state_size=3, rescale_prenorm_residual=True)
MAMBA2 = {**SIZES, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 4}
OTHER2 = dict(
    use_bias=True, use_conv_bias=False, hidden_act="gelu", expand=3, conv_kernel=3, num_heads=8, head_dim=12,
    n_groups=1, chunk_size=256, residual_in_fp32=False, layer_norm_epsilon=1e-3, tie_word_embeddings=True,
    time_step_limit=[0.3, 0.9],
)  # fmt: skip

ROWS = [
    Row("MambaForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("MambaForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True),
    Row("MambaForCausalLM", {**SIZES, **LONE}, "CausalLM", text, "lone", full=True, cached=True),
    Row("MambaForCausalLM", SIZES, "PreTraining", text, "pretraining"),
    Row("MambaModel", SIZES, None, text),
    Row("Mamba2ForCausalLM", MAMBA2, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("Mamba2ForCausalLM", {**MAMBA2, **OTHER2}, "CausalLM", text, "other", full=True, cached=True),
    Row("Mamba2ForCausalLM", MAMBA2, "PreTraining", text, "pretraining"),
    Row("Mamba2Model", MAMBA2, None, text),
]
