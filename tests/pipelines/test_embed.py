"""Embeddings against PyTorch, with real weights and with random ones."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertModel

from jaxformers.core.errors import CheckpointError
from jaxformers.demos.search import weights
from jaxformers.pipelines.buckets import bucket
from jaxformers.pipelines.embed import Embedder, embed

TEXTS = [
    "How do I read a zip file?",
    "The cat sat on the mat.",
    "",
    "A much longer text, so that the batch has to be padded: " + "one word after another " * 20,
    "Übergrößenträger 猫が好き 🙂",
]


def reference(folder, texts, max_length):
    """What sentence-transformers computes: the mean over real tokens, scaled to length one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        hidden = BertModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].float()
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()


@pytest.fixture(scope="module")
def minilm():
    return Embedder.from_pretrained(weights())


@pytest.fixture(scope="module")
def tiny(tiny_bert):
    return Embedder.from_pretrained(tiny_bert)


def test_real_weights_equal_torch(minilm):
    assert minilm.max_length == 256
    vectors = minilm.encode(TEXTS)
    assert vectors.shape == (5, 384) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, reference(weights(), TEXTS, 256), atol=1e-5)


def test_real_weights_know_what_is_alike(minilm):
    cat, kitten, bank = minilm.encode(["a cat", "a young kitten", "interest rates of a bank"])
    assert cat @ kitten > 0.6 > 0.3 > cat @ bank


def test_random_weights_equal_torch(tiny, tiny_bert):
    texts = ["the cat sat on the mat .", "dog", "how do i read a zip file ? " * 12]
    assert tiny.max_length == 48
    np.testing.assert_allclose(tiny.encode(texts), reference(tiny_bert, texts, 48), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_rows_come_back_in_order_whatever_the_batch(tiny, batch_size):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["cat", "dog", "river", "zip"], rng.integers(1, 30))) for _ in range(17)]
    alone = np.concatenate([tiny.encode([text]) for text in texts])
    np.testing.assert_allclose(tiny.encode(texts, batch_size), alone, atol=2e-6)


def test_few_lengths_are_compiled(tiny):
    texts = ["cat " * n for n in range(1, 60)]
    before = embed._cache_size()
    tiny.encode(texts, batch_size=4)
    assert embed._cache_size() - before <= 5  # lengths 16, 24, 32, 48, and the batch of what is left over


def test_no_texts_give_no_rows(tiny):
    assert tiny.encode([]).shape == (0, 32)


def test_bad_texts_are_named(tiny):
    with pytest.raises(ValueError, match=r"text 1 is int 7; text 3 is NoneType None: expected str"):
        tiny.encode(["cat", 7, "dog", None])
    with pytest.raises(ValueError, match="one string"):
        tiny.encode("cat")
    with pytest.raises(ValueError, match="batch_size is 0"):
        tiny.encode(["cat"], batch_size=0)


def test_longer_texts_on_request(tiny, tiny_bert):
    text = "how do i read a zip file ? " * 12
    assert Embedder.from_pretrained(tiny_bert, max_length=64).max_length == 64
    short = Embedder.from_pretrained(tiny_bert, max_length=8)
    np.testing.assert_allclose(short.encode([text]), reference(tiny_bert, [text], 8), atol=1e-5)
    with pytest.raises(ValueError, match="max_length is 65; this checkpoint takes 1 to 64"):
        Embedder.from_pretrained(tiny_bert, max_length=65)
    with pytest.raises(CheckpointError, match="is a file"):
        Embedder.from_pretrained(tiny_bert / "model.safetensors")


def test_prompts_of_the_checkpoint(tiny_bert, tmp_path, tiny):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    prompts = {"prompts": {"query": "how do i ", "none": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prompted = Embedder.from_pretrained(folder)
    expected = tiny.encode(["how do i read"])
    np.testing.assert_allclose(prompted.encode(["read"]), expected, atol=1e-6)
    np.testing.assert_allclose(prompted.encode(["read"], prompt_name="none"), tiny.encode(["read"]), atol=1e-6)
    with pytest.raises(ValueError, match="'passage'; this checkpoint has"):
        prompted.encode(["read"], prompt_name="passage")


def test_the_whole_computation_is_one_pure_function(tiny):
    """It differentiates with respect to the weights, so an embedder can be trained."""
    ids, mask = tiny.pad(tiny.tokens(["the cat sat"]), 1)
    gradient = jax.grad(lambda model: embed(model, tiny.stages, ids, mask)[0, 0])(tiny.model)
    assert max(float(abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0


def test_buckets():
    assert [bucket(n, 16, 256) for n in (1, 16, 17, 24, 25, 33, 49, 100, 250)] == [16, 16, 24, 24, 32, 48, 64, 128, 256]
    assert [bucket(n, 1, 32) for n in (1, 2, 3, 5, 9, 32)] == [1, 2, 3, 6, 12, 32]
    assert bucket(300, 16, 300) == 300
