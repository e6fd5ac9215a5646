"""OPT."""

import numpy as np

from tests.parity.row import Inputs, Row, text

SIZES = dict(
    vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, ffn_dim=96, max_position_embeddings=64,
)  # fmt: skip
OTHER = dict(
    hidden_size=36, num_attention_heads=3, ffn_dim=50, num_hidden_layers=2, max_position_embeddings=40,
    do_layer_norm_before=False, word_embed_proj_dim=20, activation_function="gelu", enable_bias=False,
    layer_norm_elementwise_affine=False, tie_word_embeddings=False, dropout=0.2, attention_dropout=0.3, layerdrop=0.4,
    init_std=0.1, pad_token_id=0,
)  # fmt: skip
NARROW = {**SIZES, "word_embed_proj_dim": 24}


def placed(c, rng: np.random.RandomState) -> Inputs:
    """Embeddings as wide as the words, with positions out of order."""
    places = np.stack([rng.permutation(30)[:11] for _ in range(2)])
    embeds = rng.randn(2, 11, c.word_embed_proj_dim).astype(np.float32)
    # Without a mask transformers would take positions that jump for texts packed into one row.
    return {"inputs_embeds": embeds, "position_ids": places, "attention_mask": np.ones_like(places)}


def unmasked(c, rng: np.random.RandomState) -> Inputs:
    """Text without an attention mask."""
    return {"input_ids": text(c, rng)["input_ids"]}


def causal(name: str, *, full: bool = False, **options) -> Row:
    """A language model that differs from the default in a few options."""
    return Row("OPTForCausalLM", {**SIZES, **options}, "CausalLM", text, name, full=full, cached=True)


ROWS = [
    Row("OPTForCausalLM", SIZES, "CausalLM", text, full=True, cached=True, gradient=True),
    causal("other", full=True, **OTHER),
    causal("350m", full=True, do_layer_norm_before=False, word_embed_proj_dim=24),
    causal("narrow", word_embed_proj_dim=24),
    causal("no last norm", _remove_final_layer_norm=True),
    causal("narrow, no last norm", _remove_final_layer_norm=True, word_embed_proj_dim=24),
    causal("no biases", enable_bias=False),
    causal("bare norms", layer_norm_elementwise_affine=False, activation_function="gelu_new"),
    Row("OPTForCausalLM", SIZES, "CausalLM", unmasked, "unmasked"),
    Row("OPTModel", SIZES, None, text, full=True),
    Row("OPTModel", NARROW, None, placed, "positions"),
    Row("OPTForSequenceClassification", {**NARROW, "num_labels": 5}, "SequenceClassification", text),
    Row("OPTForQuestionAnswering", NARROW, "QuestionAnswering", text),
]
