"""Falcon. ALiBi rows compare with transformers' default attention: its eager one adds the bias twice."""

from typing import Any

import numpy as np

from tests.parity.row import Inputs, Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=64,
    pad_token_id=0,
)  # fmt: skip
NEW = dict(new_decoder_architecture=True, num_kv_heads=2)
RW = dict(alibi=True, bias=True, multi_query=False, parallel_attn=False)
OTHER = dict(
    hidden_size=36, num_attention_heads=6, num_hidden_layers=2, ffn_hidden_size=50, activation="relu", bias=True,
    multi_query=False, parallel_attn=False, tie_word_embeddings=False, layer_norm_epsilon=1e-3, hidden_dropout=0.2,
    attention_dropout=0.3, initializer_range=0.1, use_cache=False,
    rope_parameters={"rope_type": "default", "rope_theta": 500.0},
)  # fmt: skip
ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 3.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16},
}


def placed(c, rng: np.random.RandomState) -> Inputs:
    """Embeddings with positions out of order."""
    places = np.stack([rng.permutation(30)[:11] for _ in range(2)])
    embeds = rng.randn(2, 11, c.hidden_size).astype(np.float32)
    # Without a mask transformers would take positions that jump for texts packed into one row.
    return {"inputs_embeds": embeds, "position_ids": places, "attention_mask": np.ones_like(places)}


def unmasked(c, rng: np.random.RandomState) -> Inputs:
    """Text without an attention mask, longer than bfloat16 counts exactly."""
    return {"input_ids": rng.randint(3, c.vocab_size, (2, 300))}


def causal(name: str, *, full: bool = False, gradient: bool = False, **options: Any) -> Row:
    """A language model that differs from the default in a few options."""
    attn = "sdpa" if options.get("alibi") else "eager"
    config = {**SIZES, **options}
    # Dynamic frequencies change with the length seen, so cached keys differ from those of one long forward.
    cached = name != "dynamic"
    return Row(
        "FalconForCausalLM", config, "CausalLM", text, name, full=full, cached=cached, gradient=gradient, attn=attn
    )


ROWS = [
    causal("default", full=True, gradient=True),
    causal("other", full=True, **OTHER),
    causal("new architecture", full=True, gradient=True, **NEW),
    causal("new, one norm", full=True, num_ln_in_parallel_attn=1, bias=True, **NEW),
    causal("new, not grouped", new_decoder_architecture=True, multi_query=False),
    causal("new, alibi", alibi=True, **NEW),
    causal("rw", full=True, **RW),
    causal("rw, odd heads", **{**RW, "hidden_size": 60, "num_attention_heads": 6}),
    causal("alibi, one key head", alibi=True),
    causal("many key heads", multi_query=False),
    causal("in turn, one key head", parallel_attn=False, num_kv_heads=2),
    causal("one norm named", num_ln_in_parallel_attn=1, ffn_hidden_size=40, activation="silu"),
    *(causal(kind, max_position_embeddings=8, rope_parameters=r) for kind, r in ROPES.items()),
    Row("FalconForCausalLM", {**SIZES, **RW, "hidden_size": 48}, "CausalLM", unmasked, "long, unmasked", attn="sdpa"),
    Row("FalconModel", SIZES, None, text, full=True),
    Row("FalconModel", {**SIZES, **OTHER}, None, placed, "positions"),
    Row("FalconForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("FalconForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("FalconForQuestionAnswering", SIZES, "QuestionAnswering", text),
]
