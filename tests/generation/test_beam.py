"""Beam search writes transformers' tokens, scores and beam indices; beam sampling draws from its distribution."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jaxformers as jf
from jaxformers.core.errors import ConfigError
from jaxformers.generation import sample, transition_scores
from jaxformers.generation.asking import read_request
from jaxformers.generation.beam_loop import begin, lengthen, write
from jaxformers.generation.generate import mode_of
from tests.generation.sides import both, left_padded, prompt, their_generate
from tests.generation.test_outputs import close, row_of
from tests.hub import tiny
from tests.parity import torch_side

QUICK = ["MambaForCausalLM", "T5ForConditionalGeneration", "WhisperForConditionalGeneration"]
SLOW = [
    "LlamaForCausalLM", "MistralForCausalLM", "GPT2LMHeadModel", "Qwen3ForCausalLM", "JambaForCausalLM",
    "BartForConditionalGeneration", "MarianMTModel",
]  # fmt: skip
FAMILIES = [*QUICK, *(pytest.param(hf, marks=pytest.mark.slow) for hf in SLOW)]
ASKED = dict(return_dict_in_generate=True, output_scores=True)


def plainly(model: jf.Model, **given: Any) -> Any:
    """Our generate of every type, without what whisper's own adds."""
    request = read_request(model, **given)
    return mode_of(request)(request)


def ends(theirs: Any, inputs: dict[str, Any], place: int = 3) -> list[int]:
    """Tokens that the model writes, so that texts end: three of the first row's best continuation."""
    out = their_generate(theirs, inputs, max_new_tokens=place + 3, num_beams=2, do_sample=False, eos_token_id=None)
    return [int(t) for t in out[0, -3:]]


@pytest.mark.parametrize("hf", FAMILIES)
def test_every_family(hf: str, tmp_path: Path) -> None:
    """Prompts with and without padding on the left, texts that end early, several returned, and their scores."""
    theirs, ours = both(row_of(hf), tmp_path)
    inputs = prompt(row_of(hf), theirs.config)
    cases = [inputs] if "decoder_input_ids" in inputs else [inputs, left_padded(inputs)]
    for given in cases:
        how = dict(max_new_tokens=9, num_beams=3, num_return_sequences=2, eos_token_id=ends(theirs, given), **ASKED)
        want = their_generate(theirs, given, do_sample=False, pad_token_id=0, **how)
        got = plainly(ours, **given, pad_token_id=0, **how)
        np.testing.assert_array_equal(got.sequences, want.sequences.numpy())
        np.testing.assert_array_equal(got.beam_indices, want.beam_indices.numpy())
        np.testing.assert_allclose(got.sequences_scores, want.sequences_scores.numpy(), rtol=2e-4)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, jf.Model]:
    """A tiny llama, both sides."""
    folder = tmp_path_factory.mktemp("llama")
    return tiny.llama(folder), jf.AutoModelForCausalLM.from_pretrained(folder)


def ids(batch: int, length: int, seed: int = 0) -> np.ndarray:
    """Random prompts."""
    return np.random.RandomState(seed).randint(3, 96, (batch, length))


def compare(llama: tuple[Any, jf.Model], given: np.ndarray, **options: Any) -> np.ndarray:
    """Ours, after it was found equal to theirs."""
    theirs, ours = llama
    options = dict(num_beams=4, pad_token_id=1, **ASKED) | options
    want = their_generate(theirs, {"input_ids": given}, **options)
    got = ours.generate(given, **options)
    np.testing.assert_array_equal(got.sequences, want.sequences.numpy())
    np.testing.assert_array_equal(got.beam_indices, want.beam_indices.numpy())
    np.testing.assert_allclose(got.sequences_scores, want.sequences_scores.numpy(), rtol=2e-4)
    return np.asarray(got.sequences)


@pytest.mark.parametrize("stopping", [True, False, "never"])
@pytest.mark.parametrize("penalty", [1.0, -0.7, 0.0, 2.5])
def test_finishing_rules(llama, stopping: bool | str, penalty: float) -> None:
    """Every rule of when to stop with every sign of the length penalty, for ends that come at different times."""
    theirs = llama[0]
    for seed in range(3):
        given = ids(3, 6, seed)
        tokens = ends(theirs, {"input_ids": given}, place=1 + seed)
        how = dict(early_stopping=stopping, length_penalty=penalty, num_return_sequences=3, max_new_tokens=14)
        compare(llama, given, eos_token_id=tokens[:2], **how)


@pytest.mark.parametrize("options", [
    dict(eos_token_id=None),
    dict(repetition_penalty=1.7, no_repeat_ngram_size=2, min_new_tokens=4, eos_token_id=[5, 9]),
    dict(
        forced_eos_token_id=7, eos_token_id=7, suppress_tokens=[4, 8], renormalize_logits=True,
        bad_words_ids=[[5], [6, 7]], exponential_decay_length_penalty=(2, 1.2),
    ),
    dict(pad_token_id=0, eos_token_id=[3, 44, 45, 46, 47], num_beams=7, num_return_sequences=7),
], ids=range(4))  # fmt: skip
def test_transforms_change_log_probabilities(llama, options: dict[str, Any]) -> None:
    compare(llama, ids(2, 7), **{"max_new_tokens": 8, **options})


@pytest.mark.parametrize("batch, length, beams", [pytest.param(1, 1, 2, marks=pytest.mark.slow), (5, 17, 3)])
def test_lengths_rows_and_widths(llama, batch: int, length: int, beams: int) -> None:
    compare(llama, ids(batch, length), max_new_tokens=5, num_beams=beams, eos_token_id=4)


def test_growing_caches(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts, origins and caches that grow stay what they were."""
    monkeypatch.setattr(sample, "FIRST", 4)
    before = lengthen._cache_size()
    compare(llama, ids(2, 9), max_new_tokens=20, eos_token_id=None)
    assert lengthen._cache_size() == before + 1


def test_no_program_is_compiled_twice_within_a_bucket(llama) -> None:
    """Other lengths, row counts, limits, penalties and rules of stopping run the programs that are there."""
    ours = llama[1]
    ours.generate(ids(3, 5), max_new_tokens=12, num_beams=4, eos_token_id=[5, 7])
    before = begin._cache_size(), write._cache_size()
    how = dict(num_beams=4, num_return_sequences=2)
    ours.generate(ids(4, 16), max_new_tokens=9, eos_token_id=[6, 7], length_penalty=-1.0, early_stopping=True, **how)
    ours.generate(ids(4, 13), max_new_tokens=14, eos_token_id=[8, 9], early_stopping="never", **how)
    assert (begin._cache_size(), write._cache_size()) == before


@pytest.mark.parametrize(
    "hf", [pytest.param("LlamaForCausalLM", marks=pytest.mark.slow), "BartForConditionalGeneration"]
)
def test_every_field(hf: str, tmp_path: Path) -> None:
    theirs, ours = both(row_of(hf), tmp_path)
    inputs = prompt(row_of(hf), theirs.config)
    how = dict(max_new_tokens=4, num_beams=3, output_logits=True, output_hidden_states=True, output_attentions=True)
    want = their_generate(theirs, inputs, do_sample=False, **ASKED, **how)
    got = ours.generate(**inputs, **ASKED, **how)
    names = [name for name, value in want.items() if value is not None and name != "past_key_values"]
    assert {"sequences", "scores", "logits"} < set(names) == set(got.keys()) - {"past_key_values"}
    for name in names:
        close(got[name], torch_side.to_numpy(want[name]), name)
    scores = transition_scores(got.sequences, got.scores, got.beam_indices)
    reference = theirs.compute_transition_scores(want.sequences, want.scores, want.beam_indices)
    close(scores, reference.numpy(), "transition scores")


def test_criteria_of_the_caller(llama) -> None:
    """A criterion is asked about every continuation, and what it calls finished competes as if it had ended."""
    theirs, ours = llama

    def their_rule(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return (tokens[:, -2:].sum(1) % 7) == 0

    def our_rule(tokens: np.ndarray, scores: Any) -> np.ndarray:
        return (tokens[:, -2:].sum(1) % 7) == 0

    how = dict(max_new_tokens=10, num_beams=3, num_return_sequences=3, pad_token_id=1, eos_token_id=5)
    want = their_generate(theirs, {"input_ids": ids(3, 6)}, stopping_criteria=[their_rule], **how)
    got = ours.generate(ids(3, 6), stopping_criteria=[our_rule], **how)
    np.testing.assert_array_equal(got, want.numpy())


@pytest.mark.slow
def test_time_ends_a_search(llama) -> None:
    """When time is over, what was written so far competes."""
    got = llama[1].generate(ids(2, 6), max_new_tokens=200, num_beams=2, max_time=1e-9, eos_token_id=None)
    assert got.shape == (2, 6 + 2)


def test_sampling_draws_without_replacement(llama) -> None:
    """Two tokens of two beams: how often each pair comes first is what the rules say (chi-square)."""
    ours = llama[1]
    prompt = ids(1, 6)
    how = dict(num_beams=2, do_sample=True, top_k=3, max_new_tokens=1, eos_token_id=None, num_return_sequences=2)
    rows = np.repeat(prompt, 64, axis=0)
    seen: dict[tuple[int, int], int] = {}
    for seed in range(12):
        out = np.asarray(ours.generate(rows, key=jax.random.key(seed), **how))[:, -1].reshape(-1, 2)
        for pair in out:
            seen[tuple(map(int, pair))] = seen.get(tuple(map(int, pair)), 0) + 1
    logits = np.asarray(ours(prompt).logits[0, -1], np.float64)
    best = np.argsort(-logits)[:3]
    p = dict(zip(best.tolist(), np.exp(logits[best]) / np.exp(logits[best]).sum(), strict=True))
    # Two of the drawn four are kept: the first two drawn, and the better of them comes first.
    expected = {}
    for a in p:
        for b in p:
            if a != b and p[a] > p[b]:
                expected[a, b] = p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b])
    total = sum(seen.values())
    assert set(seen) == set(expected) and total == 12 * 64
    chi = sum((seen[pair] - total * e) ** 2 / (total * e) for pair, e in expected.items())
    assert chi < 13.8  # two degrees of freedom, one in a thousand


def test_sampling_is_a_function_of_the_key(llama) -> None:
    """The same key, the same texts; what a row gets does not depend on how many rows there are."""
    ours, how = llama[1], dict(num_beams=3, do_sample=True, max_new_tokens=6, eos_token_id=None, pad_token_id=1)
    one = ours.generate(ids(2, 6), key=jax.random.key(3), **how)
    np.testing.assert_array_equal(one, ours.generate(ids(2, 6), key=jax.random.key(3), **how))
    more = np.concatenate([ids(2, 6), ids(1, 6, seed=1)])
    np.testing.assert_array_equal(one, ours.generate(more, key=jax.random.key(3), **how)[:2])
    assert (one != ours.generate(ids(2, 6), key=jax.random.key(4), **how)).any()


def test_wrong_numbers(llama) -> None:
    with pytest.raises(ConfigError, match="num_return_sequences"):
        llama[1].generate(ids(1, 4), max_new_tokens=2, num_beams=2, num_return_sequences=3)
    with pytest.raises(ConfigError, match="streamer"):
        llama[1].generate(ids(1, 4), max_new_tokens=2, num_beams=2, streamer=object())
