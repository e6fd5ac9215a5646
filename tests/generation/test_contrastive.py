"""Contrastive search writes what transformers 4.55 wrote: see fixtures/make.py."""

from pathlib import Path

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.errors import ConfigError
from tests.generation.fixtures.weights import cases, write_checkpoint


def loaded(name: str, folder: Path) -> jf.Model:
    """One of the fixtures' models."""
    auto = jf.AutoModelForSeq2SeqLM if name == "t5" else jf.AutoModelForCausalLM
    return auto.from_pretrained(write_checkpoint(name, folder))


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_tokens(name: str, tmp_path: Path) -> None:
    """Two texts, one of them padded; the penalty changes what greedy search would write."""
    model = loaded(name, tmp_path)
    own = [case for case in cases("contrastive") if case["model"] == name]
    assert len(own) == 3
    for case in own:
        inputs = {key: np.asarray(value) for key, value in case["inputs"].items()}
        np.testing.assert_array_equal(model.generate(**inputs, **case["options"]), case["sequences"])
    greedy = np.asarray(model.generate(**inputs, **{**case["options"], "penalty_alpha": None}))
    assert not np.array_equal(greedy, case["sequences"])


def test_steps_and_refusals(tmp_path: Path) -> None:
    """Scores of each step, a criterion that ends the text, and what does not go together."""
    model = loaded("llama", tmp_path)
    case = next(case for case in cases("contrastive") if case["model"] == "llama")
    options = {**{key: np.asarray(value) for key, value in case["inputs"].items()}, **case["options"]}
    stop = np.shape(case["inputs"]["input_ids"])[1] + 4
    asked = dict(return_dict_in_generate=True, output_scores=True)
    got = model.generate(**options, **asked, stopping_criteria=[lambda ids, scores: ids.shape[1] >= stop])
    np.testing.assert_array_equal(got.sequences, np.asarray(case["sequences"])[:, :stop])
    assert len(got.scores) == 4
    for more, match in (
        (dict(asked, output_hidden_states=True), "hidden_states"),
        (dict(guidance_scale=2.0), "guidance_scale"),
        (dict(penalty_alpha=1.5), "penalty_alpha is 1.5"),
    ):
        with pytest.raises(ConfigError, match=match):
            model.generate(**{**options, **more})
