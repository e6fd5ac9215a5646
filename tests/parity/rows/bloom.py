"""BLOOM."""

import numpy as np

from tests.parity.row import Inputs, Row, text

SIZES = dict(vocab_size=99, hidden_size=64, n_layer=3, n_head=4, pad_token_id=0)
OTHER = dict(
    hidden_size=36, n_head=6, n_layer=2, layer_norm_epsilon=1e-3, apply_residual_connection_post_layernorm=True,
    slow_but_exact=True, pretraining_tp=2, tie_word_embeddings=False, hidden_dropout=0.2, attention_dropout=0.3,
    initializer_range=0.1, use_cache=False,
)  # fmt: skip


def unmasked(c, rng: np.random.RandomState) -> Inputs:
    """Text without an attention mask."""
    return {"input_ids": text(c, rng)["input_ids"]}


def embedded(c, rng: np.random.RandomState) -> Inputs:
    """Embeddings in place of words."""
    return {"inputs_embeds": rng.randn(2, 11, c.hidden_size).astype(np.float32)}


def causal(name: str, *, full: bool = False, gradient: bool = False, **options) -> Row:
    """A language model that differs from the default in a few options."""
    return Row(
        "BloomForCausalLM", {**SIZES, **options}, "CausalLM", text, name, full=full, cached=True, gradient=gradient
    )


ROWS = [
    causal("default", full=True, gradient=True),
    causal("other", full=True, **OTHER),
    causal("normed stream", full=True, gradient=True, apply_residual_connection_post_layernorm=True),
    causal("sliced", slow_but_exact=True, pretraining_tp=4),
    causal("exact, one slice", slow_but_exact=True),
    causal("slices, not exact", pretraining_tp=4),
    causal("heads no power of two", hidden_size=60, n_head=5),
    causal("one head", hidden_size=20, n_head=1),
    Row("BloomForCausalLM", SIZES, "CausalLM", unmasked, "unmasked"),
    Row("BloomForCausalLM", SIZES, "PreTraining", text, "pretraining"),
    Row("BloomModel", SIZES, None, text, full=True),
    Row("BloomModel", {**SIZES, **OTHER}, None, embedded, "embedded"),
    Row("BloomForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("BloomForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("BloomForQuestionAnswering", SIZES, "QuestionAnswering", text),
]
