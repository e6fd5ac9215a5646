"""GPT-NeoX."""

import numpy as np

from tests.parity.row import Inputs, Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
OTHER = dict(
    hidden_size=36, num_attention_heads=3, intermediate_size=50, num_hidden_layers=2, hidden_act="relu",
    attention_bias=False, use_parallel_residual=False, tie_word_embeddings=True, layer_norm_eps=1e-3,
    attention_dropout=0.2, hidden_dropout=0.3, classifier_dropout=0.4, initializer_range=0.1, is_decoder=True,
    rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
)  # fmt: skip
ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0, "partial_rotary_factor": 0.5},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 3.0, "partial_rotary_factor": 0.5},
    "yarn": {
        "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16,
        "partial_rotary_factor": 0.75,
    },
}  # fmt: skip
OLD = dict(rotary_pct=0.75, rotary_emb_base=777)


def placed(c, rng: np.random.RandomState) -> Inputs:
    """Embeddings with positions out of order."""
    places = np.stack([rng.permutation(30)[:11] for _ in range(2)])
    embeds = rng.randn(2, 11, c.hidden_size).astype(np.float32)
    # Without a mask transformers would take positions that jump for texts packed into one row.
    return {"inputs_embeds": embeds, "position_ids": places, "attention_mask": np.ones_like(places)}


ROWS = [
    Row("GPTNeoXForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("GPTNeoXForCausalLM", {**SIZES, **OTHER}, "CausalLM", text, "other", full=True, cached=True),
    Row("GPTNeoXForCausalLM", {**SIZES, "use_parallel_residual": False}, "CausalLM", text, "in turn", cached=True),
    Row("GPTNeoXForCausalLM", {**SIZES, **OLD}, "CausalLM", text, "old names", cached=True),
    *(
        Row("GPTNeoXForCausalLM", {**SIZES, "max_position_embeddings": 8, "rope_parameters": r}, "CausalLM", text, kind)
        for kind, r in ROPES.items()
    ),
    Row("GPTNeoXModel", SIZES, None, text),
    Row("GPTNeoXModel", {**SIZES, **OTHER}, None, placed, "positions"),
    Row("GPTNeoXForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("GPTNeoXForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("GPTNeoXForQuestionAnswering", SIZES, "QuestionAnswering", text),
]
