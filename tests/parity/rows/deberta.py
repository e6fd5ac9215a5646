"""DeBERTa v2 and v3."""

import numpy as np

from tests.parity.row import Inputs, Row, choices, text, typed_text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=40,
)  # fmt: skip
V3 = dict(
    relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
    pos_att_type="p2c|c2p", position_biased_input=False, max_relative_positions=-1,
)  # fmt: skip
OTHER = dict(
    hidden_size=36, num_hidden_layers=3, num_attention_heads=3, intermediate_size=50, hidden_act="relu",
    type_vocab_size=3, layer_norm_eps=1e-3, relative_attention=True, max_relative_positions=6,
    pos_att_type=["c2p", "p2c"], conv_kernel_size=3, conv_act="gelu", conv_groups=2, embedding_size=24,
    pooler_hidden_act="tanh", pooler_dropout=0.2, cls_dropout=0.3, pad_token_id=2, tie_word_embeddings=False,
    initializer_range=0.1, norm_rel_ebd="layer_norm | other",
)  # fmt: skip
PARTS = {
    "c2p": dict(relative_attention=True, pos_att_type=["c2p"], position_buckets=6, max_relative_positions=9),
    "p2c": dict(relative_attention=True, pos_att_type="p2c", share_att_key=True, position_buckets=2),
    "no terms": dict(relative_attention=True, pos_att_type=None),
    "not relative": dict(relative_attention=False, pos_att_type=["c2p", "p2c"], type_vocab_size=2),
    "conv": dict(conv_kernel_size=5, position_biased_input=False),
}
LONG = {"position_buckets": 256, "max_position_embeddings": 512}
LABELS = {"num_labels": 5}


def long_text(c, rng: np.random.RandomState) -> Inputs:
    """Long enough to reach the furthest buckets."""
    return {"input_ids": rng.randint(3, c.vocab_size, (1, 300))}


def embedded_text(c, rng: np.random.RandomState) -> Inputs:
    """Embeddings with positions out of order."""
    places = np.stack([rng.permutation(30)[:11] for _ in range(2)])
    width = getattr(c, "embedding_size", c.hidden_size)
    return {"inputs_embeds": rng.randn(2, 11, width).astype(np.float32), "position_ids": places}


ROWS = [
    Row("DebertaV2Model", SIZES, None, text, full=True),
    Row("DebertaV2Model", {**SIZES, **V3, **LONG}, None, long_text, "long"),
    Row("DebertaV2Model", {**SIZES, **OTHER}, None, embedded_text, "positions"),
    *(Row("DebertaV2Model", {**SIZES, **part}, None, text, name) for name, part in PARTS.items()),
    Row("DebertaV2ForMaskedLM", {**SIZES, **V3}, "MaskedLM", text, full=True, gradient=True),
    Row("DebertaV2ForMaskedLM", {**SIZES, **OTHER}, "MaskedLM", typed_text, "other", full=True, gradient=True),
    Row("DebertaV2ForMaskedLM", {**SIZES, **V3, "legacy": False}, "MaskedLM", text, "new head"),
    Row("DebertaV2ForSequenceClassification", {**SIZES, **V3, **LABELS}, "SequenceClassification", text),
    Row("DebertaV2ForSequenceClassification", {**SIZES, **OTHER, **LABELS}, "SequenceClassification", text, "other"),
    Row("DebertaV2ForTokenClassification", {**SIZES, **V3, **LABELS}, "TokenClassification", text),
    Row("DebertaV2ForQuestionAnswering", {**SIZES, **V3}, "QuestionAnswering", text),
    Row("DebertaV2ForMultipleChoice", {**SIZES, **V3}, "MultipleChoice", choices),
]
