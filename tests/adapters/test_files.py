"""Folders of adapters: found with their base, of other classes and older names, and refused when something is wrong."""

import json
from pathlib import Path

import jax
import numpy as np
import peft
import pytest
import torch
import transformers

import jaxformers as jf
from jaxformers.core.errors import AdapterError, CheckpointError
from jaxformers.hub.download import wanted
from jaxformers.hub.safetensors import write
from tests.adapters import sides
from tests.adapters.sides import Case

IDS = np.random.RandomState(0).randint(3, 96, (2, 6))
LLAMA = Case(
    "LlamaForCausalLM", {**sides.LLAMA, "num_hidden_layers": 2}, dict(r=2, target_modules=["q_proj", "v_proj"])
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base model and peft's adapter for it; the adapter names the base."""
    folder = tmp_path_factory.mktemp("llama")
    sides.with_peft(LLAMA, folder)
    return folder


def copy(folder: Path, to: Path, drop: str = "", **changes) -> Path:
    """The adapter in another folder, with fields of its config changed and tensors left out."""
    to.mkdir(exist_ok=True)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text()) | changes
    (to / "adapter_config.json").write_text(json.dumps(config))
    tensors = {k: v for k, v in sides.file_of(folder / "adapter").items() if not drop or drop not in k}
    write(to / "adapter_model.safetensors", tensors)
    return to


def test_an_adapters_folder_loads_its_base(folder):
    model = jf.AutoModelForCausalLM.from_pretrained(folder / "adapter", scan=True)
    np.testing.assert_array_equal(model(IDS).logits, sides.load(folder, scan=True)(IDS).logits)
    base = jf.AutoModelForCausalLM.from_pretrained(folder / "base", with_adapter=False)
    assert base.adapters is None and base.source == str(folder / "base")


def test_a_base_beside_its_adapter_is_found(folder, tmp_path):
    sides.torch_model(LLAMA).save_pretrained(tmp_path)
    copy(folder, tmp_path, base_model_name_or_path=None)
    model = jf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.adapters is not None
    np.testing.assert_array_equal(model(IDS).logits, sides.load(folder)(IDS).logits)


def test_saving_an_adapter_leaves_the_base_beside_it_alone(folder, tmp_path):
    sides.torch_model(LLAMA).save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    sides.load(folder).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_an_adapter_of_the_language_model_fits_the_base_model(folder):
    model = jf.load_adapter(jf.AutoModel.from_pretrained(folder / "base"), folder / "adapter")
    full = sides.load(folder)(IDS, output_hidden_states=True)
    np.testing.assert_allclose(model(IDS).last_hidden_state, full.hidden_states[-1], atol=1e-6)


def test_old_pickles_and_names_of_older_transformers(tmp_path):
    """A ViT's adapter as transformers 4 and peft wrote them: query and value, in adapter_model.bin."""
    case = Case("ViTForImageClassification", sides.VIT, dict(r=2, target_modules=["q_proj", "v_proj"]))
    theirs = sides.with_peft(case, tmp_path)
    old = {}
    for name, value in sides.file_of(tmp_path / "adapter").items():
        name = name.replace("vit.layers.", "vit.encoder.layer.").replace(
            "attention.q_proj", "attention.attention.query"
        )
        old[name.replace("attention.v_proj", "attention.attention.value")] = torch.tensor(value)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["query", "value"]}))
    torch.save(old, tmp_path / "old" / "adapter_model.bin")
    model = jf.AutoModelForImageClassification.from_pretrained(tmp_path / "old")
    batch = sides.inputs(case)
    assert sides.gap(model(**batch).logits, sides.torch_scores(theirs, batch)) < 1e-5


def test_a_resized_vocabulary_is_in_the_file_both_ways(folder, tmp_path):
    """peft writes the word tables of a model that was resized, and so do we."""
    base = transformers.LlamaForCausalLM.from_pretrained(folder / "base")
    base.resize_token_embeddings(99, mean_resizing=False)
    theirs = peft.get_peft_model(base, peft.LoraConfig(**LLAMA.lora)).eval()
    sides.perturb(p for p in theirs.parameters() if p.requires_grad)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = jf.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    batch = {"input_ids": np.array([[3, 97, 98, 5]])}
    assert ours.config.vocab_size == 99
    assert sides.gap(ours(**batch).logits, sides.torch_scores(theirs, batch)) < 1e-5
    ours.save_pretrained(tmp_path / "again")
    files = [sides.file_of(tmp_path / name) for name in ("theirs", "again")]
    assert files[0].keys() == files[1].keys()
    fresh = jf.lora(jf.AutoModelForCausalLM.from_pretrained(folder / "base").resize_token_embeddings(99), 2, ["q_proj"])
    fresh.save_pretrained(tmp_path / "fresh")
    assert {k for k in sides.file_of(tmp_path / "fresh") if "lora" not in k} == {
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.lm_head.weight",
    }


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(peft_type="IA3"), AdapterError, "peft_type is 'IA3'"),
        (dict(use_dora=True), AdapterError, "use_dora is not supported"),
        (dict(lora_bias=True), AdapterError, "lora_bias is not supported"),
        (dict(init_lora_weights="pissa_niter_4"), AdapterError, "changed the base model's weights"),
        (dict(kasa_config={"beta": 1.0}), AdapterError, "kasa_config is .* not known here"),
        (dict(r=4), CheckpointError, "has rank 2; adapter_config.json says 4"),
        (dict(drop="layers.1.self_attn.v_proj.lora_B"), CheckpointError, "only one of lora_A and lora_B"),
        (dict(drop="layers.1.self_attn.v_proj"), CheckpointError, "names 1 modules that the weights lack"),
        (dict(base_model_name_or_path=None), AdapterError, "names no base model"),
        (dict(base_model_name_or_path="./nowhere"), CheckpointError, "does not exist"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(folder, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        jf.AutoModelForCausalLM.from_pretrained(copy(folder, tmp_path, **changes))


def test_another_models_adapter_is_refused(folder):
    bert = jf.Model.init(jf.AutoConfig.for_model("bert", **sides.TEXT), jax.random.key(0), task="MaskedLM")
    with pytest.raises(CheckpointError, match="modules that this bert lacks"):
        jf.load_adapter(bert, folder / "adapter")
    wide = jf.AutoConfig.for_model("llama", **{**sides.LLAMA, "hidden_size": 48, "num_hidden_layers": 2})
    with pytest.raises(CheckpointError, match="the model needs"):
        jf.load_adapter(jf.Model.init(wide, jax.random.key(0), task="CausalLM"), folder / "adapter")
    with pytest.raises(CheckpointError, match="no adapter weights"):
        only = folder / "only"
        only.mkdir()
        (only / "adapter_config.json").write_bytes((folder / "adapter" / "adapter_config.json").read_bytes())
        jf.load_adapter(jf.AutoModelForCausalLM.from_pretrained(folder / "base"), only)


def test_repositories_of_adapters_are_fetched():
    """An adapter alone, either format; and both where a repository holds a whole model too."""
    files = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md"]
    assert wanted(files, ("*.json",), None, True, "o/n") == ["adapter_config.json", "adapter_model.safetensors"]
    assert wanted(["adapter_model.bin", "x.json"], ("*.json",), None, True, "o/n") == ["adapter_model.bin", "x.json"]
    both = wanted([*files, "model.safetensors", "config.json"], ("*.json",), None, True, "o/n")
    assert "model.safetensors" in both and "adapter_model.safetensors" in both
