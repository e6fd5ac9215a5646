"""BERT."""

import numpy as np

from tests.parity.row import Inputs, Row, choices, text, typed_text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=64,
)  # fmt: skip
OTHER = dict(
    hidden_act="gelu_new", type_vocab_size=5, layer_norm_eps=1e-3, tie_word_embeddings=False, num_hidden_layers=2,
    hidden_size=36, num_attention_heads=3, intermediate_size=50, pad_token_id=None, classifier_dropout=0.3,
    hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3, initializer_range=0.1,
)  # fmt: skip
DECODER = dict(is_decoder=True)
CROSS = dict(is_decoder=True, add_cross_attention=True, use_cache=False)
MASK = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]])


def heard_text(c, rng: np.random.RandomState) -> Inputs:
    """Text with an encoder's output to attend to, a part of it padding."""
    states = rng.randn(2, 5, c.hidden_size).astype(np.float32)
    return {**text(c, rng), "encoder_hidden_states": states, "encoder_attention_mask": MASK}


def placed_text(c, rng: np.random.RandomState) -> Inputs:
    """Embeddings with positions out of order, without types."""
    places = np.stack([rng.permutation(30)[:11] for _ in range(2)])
    return {"inputs_embeds": rng.randn(2, 11, c.hidden_size).astype(np.float32), "position_ids": places}


def placed_choices(c, rng: np.random.RandomState) -> Inputs:
    """Choices as embeddings, with types and positions, all with the axis of choices; the second's end is padding."""
    shape = (2, 3, 7)
    mask = np.ones(shape, np.int64)
    mask[1, 2, -2:] = 0
    return {
        "inputs_embeds": rng.randn(*shape, c.hidden_size).astype(np.float32),
        "token_type_ids": rng.randint(0, c.type_vocab_size, shape),
        "position_ids": rng.randint(0, 20, shape),
        "attention_mask": mask,
    }


ROWS = [
    Row("BertModel", SIZES, None, typed_text, full=True),
    Row("BertModel", SIZES, None, placed_text, "positions"),
    Row("BertModel", {**SIZES, **CROSS}, None, text, "no encoder"),
    Row("BertForMaskedLM", SIZES, "MaskedLM", typed_text, full=True, gradient=True),
    Row("BertForMaskedLM", {**SIZES, **OTHER}, "MaskedLM", typed_text, "other", full=True),
    Row("BertForPreTraining", SIZES, "PreTraining", typed_text),
    Row("BertForPreTraining", {**SIZES, **OTHER}, "PreTraining", typed_text, "other"),
    Row("BertLMHeadModel", {**SIZES, **DECODER}, "CausalLM", text, full=True, cached=True),
    Row("BertLMHeadModel", {**SIZES, **CROSS}, "CausalLM", heard_text, "cross", full=True, cached=True, gradient=True),
    Row("BertLMHeadModel", {**SIZES, **OTHER}, "CausalLM", text, "both ways"),
    Row("BertForNextSentencePrediction", SIZES, "NextSentencePrediction", typed_text),
    Row("BertForSequenceClassification", {**SIZES, "num_labels": 5}, "SequenceClassification", typed_text),
    Row("BertForSequenceClassification", {**SIZES, **OTHER, "num_labels": 1}, "SequenceClassification", text, "other"),
    Row("BertForTokenClassification", {**SIZES, "num_labels": 5}, "TokenClassification", typed_text),
    Row("BertForQuestionAnswering", SIZES, "QuestionAnswering", typed_text),
    Row("BertForMultipleChoice", SIZES, "MultipleChoice", choices),
    Row("BertForMultipleChoice", {**SIZES, **OTHER}, "MultipleChoice", placed_choices, "other"),
]
