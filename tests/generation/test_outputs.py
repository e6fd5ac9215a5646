"""What generate returns besides tokens is transformers' in names, structure and numbers; guidance is too."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.generation import transition_scores
from tests.generation.sides import both, left_padded, our_generate, prompt, their_generate
from tests.parity import torch_side
from tests.parity.test_families import ROWS

ASKED = dict(
    max_new_tokens=4, return_dict_in_generate=True, output_scores=True, output_logits=True, output_hidden_states=True,
    output_attentions=True,
)  # fmt: skip


def row_of(hf: str, name: str = "default") -> Any:
    """A row of the parity table."""
    return next(r for r in ROWS if r.hf == hf and r.name == name and r.cached)


def close(ours: Any, theirs: Any, where: str) -> None:
    """Nested tuples of arrays are equal to within float32's rounding, in structure exactly."""
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple) and len(ours) == len(theirs), where
        for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            close(a, b, f"{where}[{n}]")
        return
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{where}: {ours.shape} for {theirs.shape}"
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(np.isfinite(ours), finite, err_msg=where)
    np.testing.assert_allclose(ours[finite], theirs[finite], rtol=2e-3, atol=2e-4 * np.abs(theirs[finite]).max())


@pytest.mark.parametrize("hf", ["LlamaForCausalLM", "BartForConditionalGeneration", "WhisperForConditionalGeneration"])
def test_every_field(hf: str, tmp_path: Path) -> None:
    theirs, ours = both(row_of(hf), tmp_path)
    inputs = prompt(row_of(hf), theirs.config)
    want = their_generate(theirs, inputs, do_sample=False, **ASKED)
    got = our_generate(ours, **inputs, **ASKED)
    names = [name for name, value in want.items() if value is not None and name != "past_key_values"]
    assert {"sequences", "scores", "logits"} < set(names) == set(got.keys()) - {"past_key_values"}
    for name in names:
        close(got[name], torch_side.to_numpy(want[name]), name)
    assert got.past_key_values is not None
    for normal in (False, True):
        scores = transition_scores(got.sequences, got.scores, normalize_logits=normal)
        reference = theirs.compute_transition_scores(want.sequences, want.scores, normalize_logits=normal)
        close(scores, reference.numpy(), "transition scores")


def test_padded_rows_and_several_texts(tmp_path: Path) -> None:
    """Hidden states and attentions of a padded batch; with several texts for each prompt the structure is the same."""
    theirs, ours = both(row_of("LlamaForCausalLM"), tmp_path)
    inputs = left_padded(prompt(row_of("LlamaForCausalLM"), theirs.config))
    want = their_generate(theirs, inputs, do_sample=False, **ASKED)
    got = ours.generate(**inputs, **ASKED)
    for step in range(4):
        for a, b in zip(got.hidden_states[step], want.hidden_states[step], strict=True):
            real = inputs["attention_mask"].astype(bool) if step == 0 else slice(None)
            close(np.asarray(a)[real], b.numpy()[real], f"hidden states of step {step}")
    several = ours.generate(**inputs, **ASKED, do_sample=True, num_return_sequences=3, key=jax.random.key(0))
    assert several.sequences.shape == (6, 15)
    assert {x.shape for x in several.scores} == {(6, 99)}
    assert several.attentions[0][0].shape == (6, 4, 11, 11) and several.attentions[3][0].shape == (6, 4, 1, 14)


@pytest.mark.parametrize("negative", [False, True])
def test_guidance(negative: bool, tmp_path: Path) -> None:
    """Rows of a negative prompt go beside; without one it is the prompt's last token, as in transformers."""
    theirs, ours = both(row_of("LlamaForCausalLM"), tmp_path)
    inputs = prompt(row_of("LlamaForCausalLM"), theirs.config)
    other = {"negative_prompt_ids": np.random.RandomState(1).randint(3, 99, (2, 3))} if negative else {}
    options = dict(max_new_tokens=6, guidance_scale=2.5, return_dict_in_generate=True, output_scores=True)
    want = their_generate(theirs, {**inputs, **other}, do_sample=False, **options)
    got = ours.generate(**inputs, **other, **options)
    np.testing.assert_array_equal(got.sequences, want.sequences.numpy())
    close(got.scores, torch_side.to_numpy(want.scores), "scores")


def test_processors_of_the_config_and_of_the_caller(tmp_path: Path) -> None:
    """Transforms follow from the config, and a plain function goes after them."""
    theirs, ours = both(row_of("LlamaForCausalLM"), tmp_path)
    inputs = left_padded(prompt(row_of("LlamaForCausalLM"), theirs.config))
    options = dict(max_new_tokens=8, repetition_penalty=1.7, no_repeat_ngram_size=2, min_new_tokens=5)
    want = their_generate(theirs, inputs, do_sample=False, **options).numpy()
    np.testing.assert_array_equal(ours.generate(**inputs, **options), want)
    only_seven = ours.generate(**inputs, max_new_tokens=3, logits_processor=seven)
    assert (np.asarray(only_seven)[:, 11:] == 7).all()


def seven(scores: jax.Array, seen: Any) -> jax.Array:
    """Token 7, whatever was seen."""
    return scores.at[:, 7].set(1e9)


def test_lazy_names() -> None:
    assert jf.GenerationConfig is not None and jf.TextStreamer is not None and jf.chain is not None
