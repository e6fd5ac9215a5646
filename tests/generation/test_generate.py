"""Greedy search writes transformers' tokens, for every type of the parity table that decodes."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.generation import sample
from jaxformers.generation.asking import read_request, unstacked
from jaxformers.generation.loop import Rules, begin, greedy, lengthen, write
from tests.generation.sides import both, left_padded, our_generate, prompt, their_generate
from tests.hub import tiny
from tests.parity.row import Row
from tests.parity.test_families import ROWS

# One class for each way to keep state and to count positions; the other rows take minutes.
QUICK = {
    "LlamaForCausalLM", "GPT2LMHeadModel", "OPTForCausalLM", "BloomForCausalLM", "Gemma2ForCausalLM",
    "MambaForCausalLM", "DeepseekV3ForCausalLM", "RobertaForCausalLM", "LlavaForConditionalGeneration",
    "BartForConditionalGeneration", "BartForCausalLM", "T5ForConditionalGeneration", "WhisperForConditionalGeneration",
}  # fmt: skip
CACHED = [
    pytest.param(row, marks=() if row.hf in QUICK and row.name == "default" else pytest.mark.slow, id=str(row))
    for row in ROWS
    if row.cached
]


@pytest.mark.parametrize("row", CACHED)
def test_greedy(row: Row, tmp_path: Path) -> None:
    """Prompts with and without padding on the left, the same buckets for both."""
    theirs, ours = both(row, tmp_path)
    inputs = prompt(row, theirs.config)
    cases = [inputs]
    if "decoder_input_ids" not in inputs and row.hf != "LlavaForConditionalGeneration":
        cases.append(left_padded(inputs))
    if "decoder_input_ids" in inputs:
        cases.append({k: v for k, v in inputs.items() if k != "decoder_input_ids"})
    for given in cases:
        want = their_generate(theirs, given, max_new_tokens=8, do_sample=False).numpy()
        got = np.asarray(our_generate(ours, **given, max_new_tokens=8))
        np.testing.assert_array_equal(got, want)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, jf.Model]:
    """A tiny llama, both sides."""
    folder = tmp_path_factory.mktemp("llama")
    return tiny.llama(folder, num_hidden_layers=2), jf.AutoModelForCausalLM.from_pretrained(folder)


def ids(batch: int, length: int, seed: int = 0) -> np.ndarray:
    """Random prompts."""
    return np.random.RandomState(seed).randint(3, 96, (batch, length))


def compare(llama: tuple[Any, jf.Model], given: np.ndarray, **options: Any) -> np.ndarray:
    """Ours, after it was found equal to theirs."""
    theirs, ours = llama
    want = their_generate(theirs, {"input_ids": given}, **options).numpy()
    got = np.asarray(ours.generate(given, **options))
    np.testing.assert_array_equal(got, want)
    return got


def test_early_end_of_one_row(llama) -> None:
    """A row that ends early is filled with padding; the other goes on; a set of end tokens ends either."""
    free = compare(llama, ids(2, 6), max_new_tokens=10, eos_token_id=None)
    ends = int(free[0, 8])
    got = compare(llama, ids(2, 6), max_new_tokens=10, eos_token_id=ends, pad_token_id=1)
    assert (got[0, 9:] == 1).all() and got.shape == (2, 16)
    both = compare(llama, ids(2, 6), max_new_tokens=10, eos_token_id=[ends, int(free[1, 9])], pad_token_id=1)
    assert both.shape[1] < 16


@pytest.mark.parametrize("batch, length", [(1, 1), (3, 16), (2, 17), (5, 33)])
def test_lengths_and_rows(llama, batch: int, length: int) -> None:
    compare(llama, ids(batch, length), max_new_tokens=5)


def test_no_program_is_compiled_twice_within_a_bucket(llama) -> None:
    """Other lengths, row counts, limits, temperatures and end tokens run the programs that are there."""
    ours = llama[1]
    ours.generate(ids(3, 18), max_new_tokens=12, do_sample=True, temperature=0.7, key=jax.random.key(0))
    before = begin._cache_size(), write._cache_size()
    other = {"do_sample": True, "temperature": 1.3, "key": jax.random.key(1), "eos_token_id": 6}
    ours.generate(ids(4, 31), max_new_tokens=14, **other)
    assert (begin._cache_size(), write._cache_size()) == before
    ours.generate(ids(4, 33), max_new_tokens=9, **other)
    assert begin._cache_size() == before[0] + 1


def test_growing_caches(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that grows twice, and one that is allocated whole, write the same."""
    monkeypatch.setattr(sample, "FIRST", 4)
    grown = compare(llama, ids(2, 9), max_new_tokens=70)
    assert lengthen._cache_size() >= 2
    whole = llama[1].generate(ids(2, 9), max_new_tokens=70, cache_implementation="static")
    np.testing.assert_array_equal(grown, whole)


def test_stacked_layers_are_taken_apart_once(llama, tmp_path: Path) -> None:
    llama[0].save_pretrained(tmp_path)
    stacked = jf.AutoModelForCausalLM.from_pretrained(tmp_path, scan=True)
    want = llama[1].generate(ids(2, 6), max_new_tokens=4)
    np.testing.assert_array_equal(stacked.generate(ids(2, 6), max_new_tokens=4), want)
    assert unstacked(stacked) is unstacked(stacked)


@pytest.mark.parametrize("with_ids", [False, True])
def test_embeddings_as_prompt(llama, with_ids: bool) -> None:
    theirs, ours = llama
    embeds = np.random.RandomState(0).randn(2, 7, 64).astype(np.float32)
    given = {"inputs_embeds": embeds, **({"input_ids": ids(2, 7)} if with_ids else {})}
    want = their_generate(theirs, given, max_new_tokens=6, do_sample=False).numpy()
    np.testing.assert_array_equal(ours.generate(**given, max_new_tokens=6), want)


def test_lengths_as_transformers_counts_them(llama) -> None:
    with pytest.warns(UserWarning, match="neither max_new_tokens nor max_length"):
        assert llama[1].generate(ids(1, 6)).shape == their_generate(llama[0], {"input_ids": ids(1, 6)}).shape
    compare(llama, ids(1, 6), max_length=9)
    with pytest.warns(UserWarning, match="precedence"):
        assert llama[1].generate(ids(1, 6), max_length=30, max_new_tokens=2).shape == (1, 8)
    with pytest.raises(ValueError, match="max_length is 5"):
        llama[1].generate(ids(1, 6), max_length=5)


def test_int8_cache(llama) -> None:
    """The int8 cache writes the same tokens where the scores are clear, and its scores are near."""
    exact = llama[1].generate(ids(2, 9), max_new_tokens=6, return_dict_in_generate=True, output_logits=True)
    rough = llama[1].generate(
        ids(2, 9),
        max_new_tokens=6,
        return_dict_in_generate=True,
        output_logits=True,
        cache_implementation="quantized",
    )
    np.testing.assert_array_equal(exact.sequences, rough.sequences)
    spread = float(np.std(exact.logits[1]))
    assert 0 < float(np.abs(exact.logits[1] - rough.logits[1]).max()) < 0.1 * spread
    kinds = {type(state[0]).__name__ for state in rough.past_key_values.layers}
    assert kinds == {"QuantCache"}


def test_errors_say_what_to_do(llama) -> None:
    ours = llama[1]
    for given, match in [
        ({"max_new_token": 3}, "did you mean 'max_new_tokens'"),
        ({"do_sample": True}, "key=jax.random.key"),
        ({"attention_mask": np.ones((2, 5))}, "attention_mask has shape"),
        ({"num_return_sequences": 2}, "one answer only"),
        ({"stop_strings": "x", "max_new_tokens": 2}, "pass tokenizer="),
        ({"input_ids": ids(2, 6)}, "both given"),
        ({"max_new_tokens": 0}, "greater than 0"),
        ({"token_healing": True}, "not implemented here"),
        ({"past_key_values": ours.init_cache(2, 9)}, "makes its own cache"),
    ]:
        with pytest.raises((ValueError, TypeError), match=match):
            ours.generate(ids(2, 6), **given)
    with pytest.raises(ValueError, match="input_ids have shape"):
        ours.generate(np.zeros((2, 3, 4), int))


def test_the_state_is_changed_in_place(llama) -> None:
    """No step copies a cache: the compiled loop holds no copy of a whole key or value array."""
    ours = unstacked(llama[1])
    request = read_request(ours, ids(2, 6), max_new_tokens=40)
    rules = Rules(*(np.zeros(s, np.int32) for s in ((1,), (), (), ())))
    given = (ours, request.writer, request.prompt, None, request.transforms, rules, None)
    state, _ = begin(*given, capacity=64, dtype=None, choose=greedy)
    text = write.lower(ours, request.writer, state, request.transforms, rules, choose=greedy).compile().as_text()
    loop = text[: text.index("ENTRY ")]
    assert "f32[2,64,4,8]" in loop and not re.findall(r"f32\[2,64,4,8\]\S* copy\(", loop)


def test_long_rotations_begin_amid_a_text(tmp_path: Path) -> None:
    """Phi-3 reads all tokens anew when the text outgrows its first frequencies."""
    row = next(r for r in ROWS if r.hf == "Phi3ForCausalLM" and r.name == "long")
    theirs, ours = both(row, tmp_path)
    inputs = {"input_ids": ids(2, 5)}
    want = their_generate(theirs, inputs, max_new_tokens=12, do_sample=False).numpy()
    np.testing.assert_array_equal(ours.generate(**inputs, max_new_tokens=12), want)
