"""Decision heads in files beside the weights, as their makers publish them, against transformers."""

import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

import jaxformers as jf
from jaxformers.core.errors import CheckpointError, ConfigError, UnknownModelType

SIZES = dict(
    vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=48,
)  # fmt: skip
IDS = np.arange(11)[None] + 3
QUESTIONS = {
    "marks": np.array([[4, 9]]),
    "num_options": np.array([[2, 3]]),
    "question_type_ids": np.array([[0, 2]]),
}


@pytest.fixture
def qwen(tmp_path) -> Path:
    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)).save_pretrained(tmp_path)
    return tmp_path


def write(folder: Path, **files: dict) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def check_same(folder: Path) -> jf.Model:
    """Our scores of this checkpoint are transformers', also after we saved it as one of type jev."""
    theirs = transformers.AutoModelForDecision.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS), **{k: torch.tensor(v) for k, v in QUESTIONS.items()}).numpy()
    ours = jf.AutoModelForDecision.from_pretrained(folder)
    ours.save_pretrained(folder / "saved")
    for model in (ours, jf.AutoModelForDecision.from_pretrained(folder / "saved")):
        logits = np.asarray(model(input_ids=IDS, **QUESTIONS).logits)
        np.testing.assert_allclose(logits[np.isfinite(logits)], expected, rtol=1e-4, atol=1e-5)
        assert model.config.model_type == "jev" and logits.shape[:2] == (1, 2)
    again = transformers.AutoModelForDecision.from_pretrained(folder / "saved").eval()
    with torch.no_grad():
        got = again(torch.tensor(IDS), **{k: torch.tensor(v) for k, v in QUESTIONS.items()}).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    return ours


@pytest.mark.parametrize("attention", ["noncausal_full_attention", "causal"])
def test_a_readout_of_codes(qwen, attention):
    save_file({"weight": torch.randn(5, 32)}, qwen / "readout.safetensors")
    write(qwen, decision_config={"codes": list("ABCDE"), "temperature": 1.3, "attention_mode": attention})
    model = check_same(qwen)
    assert model.config.num_verbalizers == 5 and model.config.text_config.is_causal is (attention == "causal")
    assert not np.any(model.params["head"]["bias"])  # published readouts have none


def test_a_judge_with_slots(qwen, caplog):
    save_file({"proj.weight": torch.randn(9, 32), "proj.bias": torch.randn(9)}, qwen / "head.safetensors")
    slots = {
        "num_slots": 9,
        "ranges": {"noul": [0, 2], "score": [2, 5], "choice": [5, 9]},
        "verbalizers": list("abcdefghi"),
    }
    write(
        qwen,
        judge_config={"slots": slots, "softcap": 3.0},
        calibration={"per_kind": dict.fromkeys(slots["ranges"], 1.0)},
    )
    with caplog.at_level(logging.WARNING):
        model = check_same(qwen)
    assert model.config.softcap == 3.0 and dict(model.config.offsets) == {"noul": 0, "score": 2, "choice": 5}
    assert "the LoRA in 'adapter' is not merged" in caplog.text


def test_several_prompts_equal_one_by_one(qwen):
    save_file({"weight": torch.randn(24, 32)}, qwen / "readout.safetensors")
    write(qwen, decision_config={"codes": [str(i) for i in range(24)]})
    model = jf.AutoModelForDecision.from_pretrained(qwen)
    ids = np.random.RandomState(0).randint(3, 99, (2, 11))
    marks, count, kinds = np.array([[4, 9], [11, 2]]), np.array([[2, 3], [4, 0]]), np.array([[0, 2], [1, 1]])
    both = model(input_ids=ids, marks=marks, num_options=count, question_type_ids=kinds).logits
    assert np.isfinite(both).sum(axis=-1).tolist() == count.tolist()
    for i in range(2):
        one = slice(i, i + 1)
        alone = model(input_ids=ids[one], marks=marks[one], num_options=count[one], question_type_ids=kinds[one]).logits
        np.testing.assert_allclose(both[one], alone, rtol=1e-4, atol=1e-5)


def test_a_plain_model_has_no_head(qwen):
    with pytest.raises(CheckpointError, match="qwen2 checkpoint has no decision head: expected head.safetensors or"):
        jf.AutoModelForDecision.from_pretrained(qwen)
    with pytest.raises(ConfigError, match="qwen2 config does not describe a decision head; expected one of type 'jev'"):
        jf.AutoModelForDecision.from_config(jf.AutoConfig.from_pretrained(qwen), jax.random.key(0))


def test_a_broken_head_is_refused(qwen):
    save_file({"weight": torch.randn(4, 32)}, qwen / "readout.safetensors")
    write(qwen, decision_config={"codes": list("ABCDE")})
    with pytest.raises(CheckpointError, match="weight has shape .4, 32.; head/weight needs .5, 32."):
        jf.AutoModelForDecision.from_pretrained(qwen)
    write(qwen, decision_config={}, judge_config={"slots": {"ranges": {"noul": 3}}})
    with pytest.raises(ConfigError, match="does not describe one"):
        jf.AutoModelForDecision.from_pretrained(qwen)


def test_backbones_that_are_not_built_are_named():
    with pytest.raises(UnknownModelType, match="'qwen3_5_text' is not supported"):
        jf.AutoConfig.for_model("jev", text_config={"model_type": "qwen3_5_text", "hidden_size": 64})
    with pytest.raises(
        ConfigError, match="names no text_config, which transformers takes for model type 'qwen3_5_text'"
    ):
        jf.AutoModelForDecision.from_config(jf.AutoConfig.for_model("jev"), jax.random.key(0))
    with pytest.raises(ConfigError, match="hidden_size is 4096, text_config's is 32"):
        jf.AutoConfig.for_model("jev", text_config={"model_type": "qwen2", **SIZES})
    with pytest.raises(ConfigError, match="expected the first label of each of noul, choice, score"):
        jf.AutoConfig.for_model("jev", offsets={"noul": 0})


def test_a_fresh_model_of_type_jev():
    config = jf.AutoConfig.for_model("jev", text_config={"model_type": "qwen2", **SIZES}, hidden_size=32)
    model = jf.AutoModelForDecision.from_config(config, jax.random.key(0))
    assert np.isfinite(model(input_ids=IDS, **QUESTIONS).logits).sum() == 5
    assert not np.any(model.params["head"]["bias"]) and 0.01 < np.std(model.params["head"]["weight"]) < 0.03
