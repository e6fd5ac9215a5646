"""Resized models have transformers' shapes, keep the rows they had, and predict the same for the old tokens."""

import jax
import numpy as np
import pytest
import torch
import transformers

from jaxformers.hub.model import Model
from jaxformers.hub.resize import resize_token_embeddings
from tests.hub.tiny import SIZES

SMALL = {**SIZES, "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32}
BART = dict(
    d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2
) | dict(encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=96, max_position_embeddings=32)
KINDS = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**SMALL)),
    "tied": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "bert": (
        transformers.BertForMaskedLM,
        transformers.BertConfig(**{k: v for k, v in SMALL.items() if "key_value" not in k}),
    ),
    "bart": (transformers.BartForConditionalGeneration, transformers.BartConfig(**BART)),
    "base": (transformers.LlamaModel, transformers.LlamaConfig(**SMALL)),
}


def make(name, folder):
    kind, config = KINDS[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", KINDS)
def test_rows_and_shapes_are_those_of_transformers(name, tmp_path):
    theirs = make(name, tmp_path / "old")
    model = Model.from_pretrained(tmp_path / "old")
    for size, options in ((97, {"pad_to_multiple_of": 8}), *(((90, {}),) if name in ("llama", "bart") else ())):
        resized = resize_token_embeddings(model, size, **options)
        expected = type(theirs).from_pretrained(tmp_path / "old")
        expected.resize_token_embeddings(size, **options)
        expected.eval()
        resized.save_pretrained(tmp_path / f"{size}")
        loaded = type(theirs).from_pretrained(tmp_path / f"{size}").eval()
        assert loaded.config.vocab_size == expected.config.vocab_size == resized.config.vocab_size
        for (key, mine), (other_key, other) in zip(
            loaded.state_dict().items(), expected.state_dict().items(), strict=True
        ):
            assert key == other_key
            assert mine.shape == other.shape, key
            if "cls.predictions" not in key or "bias" not in key:  # transformers ties it again, filled with zeros
                # new rows are drawn from the same narrow distribution
                np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=2e-4, err_msg=key)
            kept = min(96, *mine.shape[:1]) if mine.shape else 0
            assert torch.equal(mine[:kept], other[:kept]), key
    assert model.resize_token_embeddings(96) is model


def test_new_rows_follow_the_key_and_old_predictions_stay(tmp_path):
    make("llama", tmp_path)
    model = Model.from_pretrained(tmp_path)
    ids = np.asarray([[5, 9, 2]])
    before = model(input_ids=ids).logits
    one, same, other = (resize_token_embeddings(model, 120, key=jax.random.key(seed)) for seed in (1, 1, 2))
    tables = [np.asarray(jax.tree.leaves(m.params["backbone"]["embed"])[0]) for m in (one, same, other)]
    assert tables[0].shape == (120, 32)
    np.testing.assert_array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])
    assert 0 < np.std(tables[0][96:], 0).max() < 1e-4
    logits = one(input_ids=ids).logits
    np.testing.assert_allclose(logits[..., :96], before, atol=1e-5)
    np.testing.assert_allclose(one(input_ids=np.asarray([[5, 110]])).logits.shape, (1, 2, 120))
    drawn = resize_token_embeddings(model, 600, mean_resizing=False)
    rows = np.asarray(jax.tree.leaves(drawn.params["backbone"]["embed"])[0])[96:]
    assert abs(rows.std() - model.config.initializer_range) < 0.001


def test_stacked_layers_stay_stacked(tmp_path):
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL | {"num_hidden_layers": 3}))
    theirs.save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path, scan=True, remat="full")
    resized = resize_token_embeddings(model, 101)
    assert "0:3:1" in resized.params["backbone"]["layers"]
    assert jax.tree.structure(resized.params) == jax.tree.structure(model.params)
    assert resize_token_embeddings(resized, 96).module == model.module


def test_models_without_words_refuse(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vit reads no words"):
        resize_token_embeddings(model, 10)
    with pytest.raises(ValueError, match="at least one token"):
        resize_token_embeddings(model, 0)
