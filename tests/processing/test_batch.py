"""Batches: dictionary and attribute access, maps to words and characters, arrays, and padding of ids."""

import copy
import pickle

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.processing import BatchEncoding
from tests.processing.compare import TEXTS, attempt, plain

TEXT = "  Don't stop, naïve 🙂 wörld!"


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "unigram"])
def test_maps_between_tokens_words_and_characters(name, pair):
    _, ours, theirs = pair(name)
    batches = [one([TEXT, "second text"], ["the pair", "x"], return_tensors=None) for one in (ours, theirs)]
    for row in (0, 1):
        for position in range(len(batches[1]["input_ids"][row]) + 2):
            for call in ("token_to_chars", "token_to_word", "token_to_sequence"):
                found, expected = (attempt(getattr(batch, call), row, position) for batch in batches)
                assert found == expected
            for sequence in (0, 1):
                for call in ("char_to_token", "char_to_word", "word_to_tokens", "word_to_chars"):
                    found, expected = (attempt(getattr(batch, call), row, position, sequence) for batch in batches)
                    assert found == expected
        assert batches[0].token_to_chars(row - 2, 1) == batches[0].token_to_chars(row, 1)
    single = ours(TEXT)
    assert single.token_to_chars(1) == single.token_to_chars(0, 1)
    assert single.token_to_word(-2) == single.token_to_word(len(single.tokens()) - 2)
    start, end = single.token_to_chars(2)
    assert single.char_to_token(start) == 2
    assert single.word_ids()[single.word_to_tokens(0).start] == 0
    assert end > start


def test_access(pair):
    batch = pair("bert").ours(["one", "two"])
    assert batch.input_ids is batch["input_ids"]
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
    assert dict(**batch) == batch.data
    assert batch[1].ids == batch["input_ids"][1]
    assert batch.encodings[0].tokens == batch.tokens(0)
    with pytest.raises(AttributeError, match="pixel_values"):
        _ = batch.pixel_values
    for twin in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert twin.data == batch.data
        assert twin.word_ids(1) == batch.word_ids(1)
    bare = BatchEncoding({"input_ids": [[1], [2]]})
    assert bare[0:1] == {"input_ids": [[1]]}
    with pytest.raises(KeyError, match="input_ids"):
        _ = bare[0]
    with pytest.raises(ValueError, match="calling a tokenizer"):
        bare.word_ids()


@pytest.mark.parametrize("text", [TEXT, [TEXT, "b"], [("a", TEXT)]])
def test_numpy_arrays_equal_transformers(text, pair):
    _, ours, theirs = pair("bert")
    options = {"padding": True, "return_tensors": "np", "return_offsets_mapping": True, "return_length": True}
    found, expected = ours(text, **options), theirs(text, **options)
    assert list(found) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
        assert found[key].dtype == value.dtype == np.int64
        assert found[key].shape == value.shape


def test_jax_arrays_are_int32(pair):
    ours = pair("bert").ours
    batch = ours([TEXT, "b"], padding=True, return_tensors="jax", return_offsets_mapping=True)
    lists = ours([TEXT, "b"], padding=True, return_offsets_mapping=True)
    for key, value in batch.items():
        assert isinstance(value, jax.Array)
        assert value.dtype == np.int32
        np.testing.assert_array_equal(value, np.asarray(lists[key]))
    assert ours(TEXT, return_tensors="jax")["input_ids"].shape == (1, len(ours(TEXT)["input_ids"]))
    assert ours.decode(batch["input_ids"]) == ours.batch_decode(lists["input_ids"])
    assert ours.decode(batch["input_ids"][0, 1]) == ours.decode(int(batch["input_ids"][0, 1]))
    assert ours.convert_ids_to_tokens(batch["input_ids"][0]) == batch.tokens(0)
    assert ours("", return_tensors="jax", add_special_tokens=False)["input_ids"].dtype == np.int32


@pytest.mark.parametrize("name", ["bert", "byte-level"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_pad_like_transformers(name, pair, data):
    _, ours, theirs = pair(name)
    texts = data.draw(st.lists(TEXTS, min_size=1, max_size=4))
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "padding": st.sampled_from([True, "longest", "max_length", "do_not_pad", False]),
                "max_length": st.integers(1, 30),
                "pad_to_multiple_of": st.sampled_from([2, 8]),
                "padding_side": st.sampled_from(["left", "right"]),
                "return_attention_mask": st.booleans(),
            },
        )
    )
    extras = {"return_special_tokens_mask": data.draw(st.booleans()), "verbose": False}
    drop = data.draw(st.sampled_from([(), ("attention_mask",)]))
    if options.get("return_attention_mask") is False:
        drop = ("attention_mask",)  # transformers would leave a mask that is there unpadded
    shape = data.draw(st.sampled_from(["list", "dict", "single", "arrays"]))
    results = []
    for tokenizer in (ours, theirs):
        examples = [{k: v for k, v in tokenizer(text, **extras).items() if k not in drop} for text in texts]
        inputs = {
            "list": examples,
            "dict": {key: [example[key] for example in examples] for key in examples[0]},
            "single": examples[0],
            "arrays": [{key: np.asarray(value, np.int64) for key, value in one.items()} for one in examples],
        }[shape]
        results.append(attempt(tokenizer.pad, inputs, **options))
    found, expected = results
    if expected is None or "O" in {getattr(value, "dtype", np.dtype(int)).char for value in expected.values()}:
        assert found is None  # we refuse ragged arrays, where transformers makes arrays of objects
    else:
        assert plain(found) == plain(expected)
        assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]
