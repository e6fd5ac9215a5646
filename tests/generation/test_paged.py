"""Generation with a cache in pages: the same tokens as with a dense one, whatever the strategy."""

from functools import partial

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.rows import paged
from jaxformers.generation import writer
from jaxformers.ops.dispatch import use


@pytest.fixture(scope="module")
def model() -> jf.Model:
    sizes = dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    config = jf.AutoConfig.for_model("llama", **sizes, num_key_value_heads=2, eos_token_id=None)
    model = jf.Model.init(config, jax.random.key(0), task="CausalLM")
    return jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(1), x.shape, x.dtype), model)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(writer.KINDS, "paged", partial(paged, size=16))


PROMPT = np.random.RandomState(0).randint(1, 99, (2, 9))
PADDING = np.arange(9)[None] >= np.array([[0], [3]])


@pytest.mark.parametrize("kind", ["reference", ("paged_tpu", "reference")])
def test_greedy(model: jf.Model, kind: str | tuple) -> None:
    given = {"input_ids": PROMPT, "attention_mask": PADDING, "max_new_tokens": 30, "do_sample": False}
    jax.clear_caches()  # what was traced with another implementation would run again
    with use(attention=kind):
        out = model.generate(**given, cache_implementation="paged", return_dict_in_generate=True)
    assert {type(layer[0]).__name__ for layer in out.past_key_values.layers} == {"PagedCache"}
    np.testing.assert_array_equal(out.sequences, model.generate(**given))


@pytest.mark.slow
def test_growing_beams_and_several_texts(model: jf.Model) -> None:
    for more in ({"max_new_tokens": 80}, {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2}):
        want = model.generate(PROMPT, do_sample=False, **more)
        np.testing.assert_array_equal(
            model.generate(PROMPT, do_sample=False, cache_implementation="paged", **more), want
        )
    sampled = {"do_sample": True, "key": jax.random.key(3), "num_return_sequences": 2, "max_new_tokens": 6}
    want = model.generate(PROMPT, **sampled)
    np.testing.assert_array_equal(model.generate(PROMPT, cache_implementation="paged", **sampled), want)
