"""Llama and Mistral."""

from tests.parity.row import Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=96, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
OTHER = dict(
    attention_bias=True, mlp_bias=True, hidden_act="gelu", head_dim=32, tie_word_embeddings=True, rms_norm_eps=1e-3,
    num_key_value_heads=1, rope_parameters=YARN,
)  # fmt: skip
ROPES = {
    "proportional": {"rope_type": "proportional", "rope_theta": 50.0, "partial_rotary_factor": 0.55, "factor": 2.0},
    "part of a default": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5},
    "yarn with scales": {**YARN, "mscale": 0.8, "mscale_all_dim": 1.3, "beta_fast": 4, "beta_slow": 0.5},
    "yarn with a factor": {**YARN, "attention_factor": 0.6, "truncate": False},
    "linear": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 3.0},
    "llama3": LLAMA3,
    "longrope": {
        "rope_type": "longrope", "rope_theta": 5000.0, "original_max_position_embeddings": 8, "factor": 4.0,
        "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + 0.3 * i for i in range(8)],
    },
}  # fmt: skip

ROWS = [
    Row("LlamaForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("LlamaForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True),
    *(
        Row(
            "LlamaForCausalLM", {**SIZES, "max_position_embeddings": 8, "rope_parameters": rope}, "CausalLM", text, kind
        )
        for kind, rope in ROPES.items()
    ),
    Row(
        "LlamaForCausalLM",
        {**SIZES, "rope_parameters": YARN, "original_max_position_embeddings": 8},
        "CausalLM",
        text,
        "original beside",
    ),  # fmt: skip
    Row("LlamaModel", SIZES, None, text),
    Row("LlamaForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("LlamaForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("LlamaForQuestionAnswering", SIZES, "QuestionAnswering", text),
    Row("MistralForCausalLM", {**SIZES, "sliding_window": 4}, "CausalLM", text, full=True, cached=True),
    Row(
        "MistralForCausalLM",
        {**SIZES, "sliding_window": None, "hidden_act": "relu", "head_dim": 24, "tie_word_embeddings": True},
        "CausalLM",
        text,
        "other",
        full=True,
        cached=True,
    ),
    Row("MistralModel", SIZES, None, text),
    Row("MistralForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("MistralForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("MistralForQuestionAnswering", SIZES, "QuestionAnswering", text),
]
