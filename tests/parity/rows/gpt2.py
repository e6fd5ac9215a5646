"""GPT-2."""

import numpy as np

from tests.parity.row import Inputs, Row, text

SIZES = dict(vocab_size=99, n_positions=64, n_embd=64, n_layer=3, n_head=4, pad_token_id=0)
OTHER = dict(
    activation_function="relu", n_inner=50, layer_norm_epsilon=1e-3, n_embd=36, n_head=3, n_layer=2, n_positions=40,
    scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True,
    tie_word_embeddings=False, resid_pdrop=0.2, embd_pdrop=0.3, attn_pdrop=0.4, initializer_range=0.1,
    summary_type="mean", summary_use_proj=False, summary_activation="tanh", summary_proj_to_labels=False,
    summary_first_dropout=0.5, use_cache=False,
)  # fmt: skip
CROSS = dict(add_cross_attention=True)
MASK = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]])


def typed(c, rng: np.random.RandomState) -> Inputs:
    """Text with token types, which are words as well."""
    inputs = text(c, rng)
    return {**inputs, "token_type_ids": rng.randint(0, c.vocab_size, inputs["input_ids"].shape)}


def heard(c, rng: np.random.RandomState) -> Inputs:
    """Text with an encoder's output to attend to, a part of it padding."""
    states = rng.randn(2, 5, c.hidden_size).astype(np.float32)
    return {**text(c, rng), "encoder_hidden_states": states, "encoder_attention_mask": MASK}


def placed(c, rng: np.random.RandomState) -> Inputs:
    """Embeddings with positions out of order."""
    places = np.stack([rng.permutation(30)[:11] for _ in range(2)])
    embeds = rng.randn(2, 11, c.hidden_size).astype(np.float32)
    # Without a mask transformers would take positions that jump for texts packed into one row.
    return {"inputs_embeds": embeds, "position_ids": places, "attention_mask": np.ones_like(places)}


def alone(c, rng: np.random.RandomState) -> Inputs:
    """One text, for classifiers that know no padding."""
    return {k: v[:1] for k, v in text(c, rng).items()}


BOTH = {**SIZES, **OTHER}
ROWS = [
    Row("GPT2LMHeadModel", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    Row("GPT2LMHeadModel", BOTH, "CausalLM", text, "other", full=True, cached=True),
    Row("GPT2LMHeadModel", {**SIZES, **CROSS}, "CausalLM", heard, "cross", full=True, cached=True, gradient=True),
    Row("GPT2LMHeadModel", {**BOTH, **CROSS}, "CausalLM", heard, "cross, other", full=True, cached=True),
    Row("GPT2LMHeadModel", {**SIZES, **CROSS}, "CausalLM", text, "no encoder", cached=True),
    Row("GPT2LMHeadModel", SIZES, "CausalLM", typed, "types", full=True),
    Row("GPT2LMHeadModel", {**SIZES, "scale_attn_by_inverse_layer_idx": True}, "CausalLM", text, "scales"),
    Row("GPT2LMHeadModel", {**SIZES, "reorder_and_upcast_attn": True}, "CausalLM", text, "upcast", cached=True),
    Row("GPT2LMHeadModel", SIZES, "PreTraining", text, "pretraining"),
    Row("GPT2Model", SIZES, None, text, full=True),
    Row("GPT2Model", BOTH, None, placed, "positions"),
    Row("GPT2ForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", text),
    Row("GPT2ForSequenceClassification", {**BOTH, "pad_token_id": None}, "SequenceClassification", alone, "unpadded"),
    Row("GPT2ForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", text),
    Row("GPT2ForQuestionAnswering", SIZES, "QuestionAnswering", typed),
]
