"""Packed rows with segment_ids give each document the logits and gradients it has in a row of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.models import read_config

SIZES = dict(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
CASES = {
    "llama": ("CausalLM", dict(SIZES, num_key_value_heads=2, max_position_embeddings=32)),
    "bert": ("MaskedLM", dict(SIZES, max_position_embeddings=32)),
    "roberta": ("MaskedLM", dict(SIZES, max_position_embeddings=34, pad_token_id=1)),
    "gpt2": ("CausalLM", dict(vocab_size=40, n_embd=32, n_layer=1, n_head=4, n_positions=32)),
    "opt": ("CausalLM", dict(SIZES, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=32)),
    "falcon": ("CausalLM", dict(SIZES, alibi=True, new_decoder_architecture=False, multi_query=False)),
    "modernbert": ("MaskedLM", dict(SIZES, num_hidden_layers=2, local_attention=4, pad_token_id=0)),
    "deberta-v2": ("MaskedLM", dict(SIZES, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=4)),
}
SEGMENTS = np.array([[1] * 5 + [2] * 5 + [0] * 2, [1] * 5 + [0] * 7])  # both rows end with padding
ROWS, STARTS = np.array([[0], [0], [1]]), np.array([[0], [5], [0]]) + np.arange(5)  # where three documents stand
RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 40, (3, 5))


def packed(documents: np.ndarray, fill: int = 0) -> np.ndarray:
    """The documents in their rows."""
    out = np.full(SEGMENTS.shape, fill, documents.dtype)
    out[ROWS, STARTS] = documents
    return out


def make(kind: str, task: str, fields: dict) -> jf.Model:
    """A tiny model in which no parameter is zero or one."""
    model = jf.Model.init(read_config({"model_type": kind, **fields}), jax.random.key(0), task=task)
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model.replace(params=jax.tree.unflatten(tree, moved))


def scored(model: jf.Model, weights: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
    """A number that depends on the logits of the places with weights, and the logits."""
    logits = model.module.apply({"params": model.params}, **batch).logits
    return jnp.sum(jnp.where(weights[..., None] != 0, jax.nn.log_softmax(logits) * weights[..., None], 0)), logits


WEIGHTS = RNG.uniform(1, 2, IDS.shape)


def check(model: jf.Model, rows: dict, alone: dict, *, compute=jax.value_and_grad) -> None:
    """Compare one packed batch with its documents in rows of their own: logits, and what else `compute` gives."""
    run = jax.jit(compute(scored, has_aux=True))
    (_, logits), grads = run(model, jnp.asarray(packed(WEIGHTS), jnp.float32), rows)
    (_, want), wanted = run(model, jnp.asarray(WEIGHTS, jnp.float32), alone)
    np.testing.assert_allclose(logits[ROWS, STARTS], want, atol=1e-5)
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1.0, float(jnp.abs(want).max())))


def forward(function, has_aux: bool):
    """In the place of value_and_grad, without gradients."""
    return lambda *args: (function(*args), ())


SLOW = ("gpt2", "modernbert", "deberta-v2")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in CASES])
def test_documents_are_alone_in_packed_rows(kind: str) -> None:
    model = make(kind, *CASES[kind])
    fill = CASES[kind][1].get("pad_token_id", 0)
    compute = jax.value_and_grad if kind in ("llama", "bert") else forward
    check(model, {"input_ids": packed(IDS, fill), "segment_ids": SEGMENTS}, {"input_ids": IDS}, compute=compute)


def test_documents_are_alone_on_both_sides_of_an_encoder_decoder() -> None:
    fields = dict(vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0)
    model = make("t5", "Seq2SeqLM", fields)
    written = RNG.integers(3, 40, IDS.shape)
    rows = {
        "input_ids": packed(IDS), "segment_ids": SEGMENTS,
        "decoder_input_ids": packed(written), "decoder_segment_ids": SEGMENTS,
    }  # fmt: skip
    check(model, rows, {"input_ids": IDS, "decoder_input_ids": written})
    with pytest.raises(ValueError, match="give both or neither"):
        model(**{**rows, "decoder_segment_ids": None})
    with pytest.raises(ValueError, match="packed rows need decoder_input_ids"):
        model(**{**rows, "decoder_input_ids": None})


def test_without_segments_documents_do_see_each_other() -> None:
    """What the tests above would see if the segments did nothing."""
    model = make("llama", *CASES["llama"])
    ids = packed(IDS)
    plain, apart = model(input_ids=ids).logits, model(input_ids=ids, segment_ids=SEGMENTS).logits
    np.testing.assert_allclose(plain[0, :5], apart[0, :5], atol=1e-5)
    assert np.abs(plain[0, 5:10] - apart[0, 5:10]).max() > 1e-2


def test_layers_that_pass_a_state_on_refuse_packed_rows() -> None:
    jamba = dict(SIZES, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4, num_experts=2)
    model = jf.Model.init(read_config({"model_type": "jamba", **jamba}), jax.random.key(0), task="CausalLM")
    with pytest.raises(ValueError, match="this model has recurrent layers"):
        model(input_ids=packed(IDS), segment_ids=SEGMENTS)
    deberta = read_config({"model_type": "deberta-v2", **CASES["deberta-v2"][1], "conv_kernel_size": 3})
    model = jf.Model.init(deberta, jax.random.key(0), task="MaskedLM")
    with pytest.raises(ValueError, match="a convolution over neighbouring tokens"):
        model(input_ids=packed(IDS), segment_ids=SEGMENTS)
    llama = make("llama", *CASES["llama"])
    with pytest.raises(ValueError, match="a cache holds one text in each row"):
        llama(input_ids=packed(IDS), segment_ids=SEGMENTS, past_key_values=llama.init_cache(2, 20))
