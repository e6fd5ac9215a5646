"""generation_config.json is read and written as transformers does, and travels with the model."""

import json
from pathlib import Path

import jax
import pytest
import transformers

import jaxformers as jf
from jaxformers.core.errors import ConfigError
from jaxformers.generation.config import DEFAULTS, FIELDS
from jaxformers.generation.config_rules import check_complete
from jaxformers.generation.generate import mode_name
from tests.hub import tiny

GC = jf.GenerationConfig


def test_defaults_and_fields_are_transformers() -> None:
    theirs = transformers.GenerationConfig()
    wanted = theirs._get_default_generation_params()
    assert {k: v for k, v in wanted.items() if v is not None} == dict(DEFAULTS)
    ignored = {"use_mtp", "speculation_type", "continuous_batching_config"}
    assert {k for k in vars(theirs) if not k.startswith("_")} - ignored <= set(FIELDS)


def test_round_trip(tmp_path: Path) -> None:
    """Files go to and fro, with keys that nobody knows and with infinities."""
    raw = {"eos_token_id": [2, 5], "top_p": 0.9, "do_sample": True, "lang_to_id": {"<|en|>": 7}, "max_initial": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(raw))
    ours = GC.from_pretrained(tmp_path, top_k=7)
    assert (ours.eos, ours.top_k, ours.lang_to_id["<|en|>"]) == ((2, 5), 7, 7)
    ours.save_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "generation_config.json").read_text()) == {**raw, "top_k": 7}
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path / "ours")
    assert (theirs.eos_token_id, theirs.top_k, theirs.max_initial) == ([2, 5], 7, 1)
    theirs.save_pretrained(tmp_path / "theirs")
    assert GC.from_pretrained(tmp_path / "theirs").update(transformers_version=None) == ours


def test_a_value(tmp_path: Path) -> None:
    c = GC(suppress_tokens=[1, 2], max_new_tokens=3)
    assert c == GC(suppress_tokens=(1, 2), max_new_tokens=3) and hash(c) == hash(c.update())
    assert repr(c) == "GenerationConfig(max_new_tokens=3, suppress_tokens=(1, 2), extra={})"
    with pytest.raises(AttributeError, match="update\\(top_k=3\\)"):
        c.top_k = 3
    with pytest.raises(ConfigError, match="did you mean 'top_k'"):
        c.update(topk=3)
    with pytest.raises(AttributeError, match="did you mean 'top_k'"):
        _ = c.topk
    assert GC(top_k=1).over(c).suppress_tokens == (1, 2)
    with pytest.raises(ConfigError, match="is in suppress_tokens too"):
        check_complete(GC(forced_eos_token_id=1, suppress_tokens=[1]))


def test_models_carry_it(tmp_path: Path) -> None:
    """Read with the model, kept through jax's transformations, written back; no program depends on it."""
    tiny.llama(tmp_path / "a")
    file = tmp_path / "a" / "generation_config.json"
    file.write_text(json.dumps({"max_length": 9, "house": "ours"}))
    model = jf.AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert model.generation_config == GC(max_length=9, extra={"house": "ours"})
    assert jax.tree.map(lambda x: x, model).generation_config.max_length == 9
    assert model.generate([[5, 6]], eos_token_id=None).shape == (1, 9)
    model.generation_config = model.generation_config.update(max_length=8)
    assert model.generate([[5, 6]], eos_token_id=None).shape == (1, 8)
    model.save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "generation_config.json").read_text()) == {"max_length": 8, "house": "ours"}


def test_old_files_say_it_in_config_json(tmp_path: Path) -> None:
    """Without generation_config.json, what config.json holds counts."""
    tiny.llama(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "no_repeat_ngram_size": 3, "eos_token_id": 7}))
    found = jf.AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    assert (found.no_repeat_ngram_size, found.eos_token_id, found.pad_token_id) == (3, 7, 0)


def test_modes_are_transformers() -> None:
    for options in (
        {},
        {"do_sample": True},
        {"num_beams": 2},
        {"num_beams": 2, "do_sample": True},
        {"num_beams": 4, "num_beam_groups": 2},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"force_words_ids": [[3]], "num_beams": 2},
    ):
        theirs = transformers.GenerationConfig(**{"top_k": 50, **options}).get_generation_mode()
        assert mode_name(GC(**options).filled(), {}) == theirs.value
    assert mode_name(GC(prompt_lookup_num_tokens=3).filled(), {}) == "prompt_lookup"
    with pytest.raises(ConfigError, match="greedy search and sampling only"):
        mode_name(GC(num_beams=2).filled(), {"assistant_model": object()})
