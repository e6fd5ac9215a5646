"""JEV: decisions over Qwen 2, causal and not, and over an encoder."""

from typing import Any

import numpy as np

from jaxformers.core.outputs import LogitsOutput
from tests.parity.row import LENGTH, Inputs, Row

QWEN = dict(
    model_type="qwen2", vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=96, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
TWO_SIDED = dict(
    is_causal=False, use_sliding_window=True, sliding_window=4, num_key_value_heads=4, tie_word_embeddings=True,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)  # fmt: skip
BERT = dict(
    model_type="bert", vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=64,
)  # fmt: skip
SIZES = dict(text_config=QWEN, hidden_size=64)
OTHER = dict(
    text_config={**QWEN, **TWO_SIDED}, hidden_size=64, softcap=2.0, num_verbalizers=7,
    offsets={"noul": 4, "score": 0, "choice": 2},
)  # fmt: skip
QWEN3 = {**QWEN, **TWO_SIDED, "model_type": "qwen3", "head_dim": 24}


def questions(c: Any, rng: np.random.RandomState) -> Inputs:
    """One prompt with a question of each kind; transformers takes one prompt only."""
    return {
        "input_ids": rng.randint(3, c.text_config.vocab_size, (1, LENGTH)),
        "marks": np.array([[3, 7, 11]]),
        "num_options": np.array([[2, 4, 3]]),
        "question_type_ids": np.array([[0, 1, 2]]),
    }


def flat(out: LogitsOutput) -> LogitsOutput:
    """The scores of all options, one question after another."""
    logits = np.asarray(out.logits)
    return LogitsOutput(logits=logits[np.isfinite(logits)])


CLASS = "JevForDecision"
ROWS = [
    Row(CLASS, SIZES, "Decision", questions, full=True, as_theirs=flat),
    Row(CLASS, OTHER, "Decision", questions, "two-sided", full=True, as_theirs=flat),
    Row(CLASS, {**SIZES, "text_config": QWEN3}, None, questions, "qwen3", as_theirs=flat),
    Row(CLASS, dict(text_config=BERT, hidden_size=32), "Decision", questions, "encoder", as_theirs=flat),
]
