"""Gemma, Gemma 2 and the text model of Gemma 3."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=96, max_position_embeddings=64,
)  # fmt: skip
OTHER = dict(
    head_dim=24, num_key_value_heads=1, hidden_act="relu", rms_norm_eps=1e-3, attention_bias=True, pad_token_id=1,
    tie_word_embeddings=False, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
)  # fmt: skip
TWO_SIDED = {**SIZES, "use_bidirectional_attention": True}
SIZES2 = {**SIZES, "sliding_window": 4, "query_pre_attn_scalar": 32}
OTHER2 = dict(
    head_dim=24, num_key_value_heads=4, hidden_activation="silu", rms_norm_eps=1e-3, attention_bias=True,
    tie_word_embeddings=False, sliding_window=3, query_pre_attn_scalar=7, final_logit_softcapping=None,
    attn_logit_softcapping=None, pad_token_id=None, num_hidden_layers=4,
    layer_types=["full_attention", "full_attention", "sliding_attention", "full_attention"],
    rope_parameters={"rope_type": "yarn", "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 16},
)  # fmt: skip
CAPS = {"final_logit_softcapping": 0.5, "attn_logit_softcapping": 0.7}
SIZES3 = {**SIZES2, "num_hidden_layers": 7}
OTHER3 = {
    **OTHER2, **CAPS,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 3000.0, "factor": 4.0},
        "sliding_attention": {
            "rope_type": "llama3", "rope_theta": 200.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
}  # fmt: skip

ROWS = [
    Row("GemmaForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("GemmaForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True),
    Row("GemmaForCausalLM", {**SIZES, "hidden_act": "gelu"}, "CausalLM", text, "old activation"),
    # eager attention ignores the switch that sdpa, the default, obeys
    Row("GemmaForCausalLM", TWO_SIDED, "CausalLM", text, "two-sided", attn="sdpa"),
    Row("GemmaModel", SIZES, None, text),
    Row("GemmaForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("GemmaForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("Gemma2ForCausalLM", SIZES2, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("Gemma2ForCausalLM", {**SIZES2, **OTHER2}, "CausalLM", text, "other", full=True, cached=True),
    Row("Gemma2ForCausalLM", {**SIZES2, **CAPS}, "CausalLM", text, "low caps", full=True, cached=True),
    Row("Gemma2Model", SIZES2, None, text),
    Row("Gemma2ForSequenceClassification", {**SIZES2, "num_labels": 5}, "SequenceClassification", text),
    Row("Gemma2ForTokenClassification", {**SIZES2, "num_labels": 5}, "TokenClassification", text),
    Row("Gemma3ForCausalLM", SIZES3, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("Gemma3ForCausalLM", {**SIZES3, **OTHER3}, "CausalLM", text, "other", full=True, cached=True),
    Row(
        "Gemma3ForCausalLM", {**SIZES3, "use_bidirectional_attention": True, "sliding_window": 6}, "CausalLM", text,
        "two-sided", full=True,
    ),
    Row("Gemma3ForCausalLM", {**SIZES3, "sliding_window_pattern": 2}, "CausalLM", text, "old pattern"),
    Row("Gemma3TextModel", SIZES3, None, text),
    Row("Gemma3TextForSequenceClassification", {**SIZES3, "num_labels": 5}, "SequenceClassification", text),
]  # fmt: skip
