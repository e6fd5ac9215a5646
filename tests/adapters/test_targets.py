"""Names mean the same modules as in peft, for every family."""

import importlib
from pathlib import Path

import jax
import peft
import pytest
import torch
import transformers
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

import jaxformers as jf
from jaxformers.adapters.lora import chosen_targets
from jaxformers.adapters.targets import targets_of
from jaxformers.core.errors import AdapterError
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.hub.model import Model
from jaxformers.models import read_config
from tests.adapters import sides

ROWS = Path(__file__).parent.parent / "parity" / "rows"
# A class's own name for the same module, or layers that are linear in PyTorch alone.
OTHERWISE = {
    "JevForDecision": {"proj"},  # the head's file has one tensor, called weight
    "Wav2Vec2ForXVector": {f"tdnn.{n}.kernel" for n in range(5)},  # PyTorch itself passes by adapters there
}
SKIPPED = {"SwinBackbone"}  # transformers nests the backbone one level deeper than its files


def one_row_per_class() -> list:
    """The first parity row of each class that transformers has."""
    rows: dict[str, object] = {}
    for file in sorted(ROWS.glob("*.py")):
        for row in importlib.import_module(f"tests.parity.rows.{file.stem}").ROWS:
            if hasattr(transformers, row.hf) and row.hf not in SKIPPED:
                rows.setdefault(row.hf, row)
    return list(rows.values())


def theirs(row) -> tuple[object, set[str]]:
    """transformers' config, and what peft means by "all-linear"."""
    cls = getattr(transformers, row.hf)
    with torch.device("meta"):
        model = cls(cls.config_class(**row.config))
    kind = "SEQ_CLS" if row.task == "SequenceClassification" else None
    options = peft.LoraConfig(target_modules="all-linear", task_type=kind)
    return model.config, set(_maybe_include_all_linear_layers(options, model).target_modules)


def ours(config, row) -> set[str]:
    """What we mean by it, classifiers apart."""
    raw = {**config.to_dict(), "architectures": [row.hf]}
    model = abstract_model(read_config(raw), task=row.task)
    whole = ["score", "classifier"] if row.task == "SequenceClassification" else None
    asked = dict(target_modules="all-linear", modules_to_save=whole, exclude_modules=None, layers_to_transform=None)
    return {target.name for target in chosen_targets(model, targets_of(model), asked)}


@pytest.mark.slow
@pytest.mark.parametrize("row", one_row_per_class(), ids=lambda row: row.hf)
def test_all_linear_is_what_peft_means(row):
    config, expected = theirs(row)
    if not expected:  # convolutions alone
        with pytest.raises(AdapterError, match="chooses no module"):
            ours(config, row)
        return
    found = ours(config, row)
    if row.task == "SequenceClassification":  # peft leaves out one layer of a head that has several
        expected = {name for name in expected if name.partition(".")[0] not in ("score", "classifier")}
    assert found == expected - OTHERWISE.get(row.hf, set())


CONFIG = read_config({"model_type": "llama", **sides.LLAMA})


@pytest.fixture(scope="module")
def llama() -> Model:
    return abstract_model(CONFIG, task="CausalLM")


def names(model: Model) -> set[str]:
    """The modules that have an adapter."""
    assert model.adapter is not None
    return {site.module for site in model.adapter.sites}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(targets="q_proj"), {f"model.layers.{n}.self_attn.q_proj" for n in range(3)}),
        (dict(targets=["q_proj"], layers=[0, 2]), {f"model.layers.{n}.self_attn.q_proj" for n in (0, 2)}),
        (dict(targets=["q_proj"], exclude=["layers.1.self_attn.q_proj"], layers=1), None),
        (dict(targets=r".*\.1\..*proj", exclude=r".*mlp.*"), {f"model.layers.1.self_attn.{p}_proj" for p in "qkvo"}),
        (dict(targets=["model.embed_tokens", "lm_head"]), {"model.embed_tokens", "lm_head"}),
    ],
    ids=["one name", "layers", "nothing left", "pattern", "whole names"],
)
def test_names_layers_and_exclusions(llama, options, expected):
    if expected is None:
        with pytest.raises(AdapterError, match="chooses no module"):
            jf.lora(llama, **options)
    else:
        assert names(jf.lora(llama, **options)) == expected


def test_our_names_are_understood_and_theirs_are_written():
    """BERT's query is our q_proj; peft must find the names in the file."""
    model = jf.lora(abstract_model(read_config({"model_type": "bert", **sides.TEXT}), task="MaskedLM"), 2, ["q_proj"])
    assert model.adapter is not None
    expected = {f"bert.encoder.layer.{n}.attention.self.query" for n in range(3)}
    assert names(model) == set(model.adapter.config["target_modules"]) == expected


def test_names_of_older_transformers_are_understood():
    """A ViT's query is called q_proj in transformers 5 and query in every checkpoint."""
    config = read_config({"model_type": "vit", **sides.VIT})
    old, new = (jf.lora(abstract_model(config, task="ImageClassification"), 2, [n]) for n in ("query", "q_proj"))
    assert names(old) == names(new) == {f"vit.layers.{n}.attention.q_proj" for n in range(3)}


@pytest.mark.parametrize(
    ("kind", "task", "options", "message"),
    [
        ("llama", "CausalLM", dict(targets=["q_prj"]), "no module is called 'q_prj'; did you mean q_proj"),
        ("llama", "CausalLM", dict(targets=["input_layernorm"]), "cannot have a low-rank adapter here"),
        ("llama", "CausalLM", dict(targets=["q_proj"], rank=0), "the rank is 0"),
        ("llama", "CausalLM", dict(targets=["q_proj"], bias="some"), "bias is 'some'"),
        ("llama", "CausalLM", dict(targets=["q_proj"], modules_to_save=["hed"]), "no module is called 'hed'"),
        ("gpt2", "CausalLM", dict(targets=["q_proj"]), "name 'c_attn' to adapt all of it"),
        ("gpt2", "CausalLM", dict(targets=["lm_head"]), "the head shares the words' table"),
        ("gpt2", "CausalLM", dict(targets=["c_fc"], modules_to_save=["wte"]), "also the language-model head's matrix"),
        ("vit", "ImageClassification", dict(targets=["projection"]), "convolutions"),
    ],
)
def test_what_cannot_be_is_said(kind, task, options, message):
    sizes = {"llama": sides.LLAMA, "gpt2": sides.GPT2, "vit": sides.VIT}[kind]
    model = abstract_model(read_config({"model_type": kind, **sizes}), task=task)
    with pytest.raises(AdapterError, match=message):
        jf.lora(model, **options)


def test_classifiers_are_trained_whole_unless_told_otherwise():
    config = read_config({"model_type": "roberta", **sides.TEXT})
    model = abstract_model(config, task="SequenceClassification")
    whole = jf.lora(model, 2, "all-linear")
    assert whole.adapter is not None and whole.adapter.config["task_type"] == "SEQ_CLS"
    assert {path.partition(".")[0] for path in whole.adapter.saved} == {"head"}
    assert not any(name.startswith("classifier") for name in names(whole))
    adapted = jf.lora(model, 2, "all-linear", modules_to_save=())
    assert adapted.adapter is not None and adapted.adapter.config["task_type"] is None and not adapted.adapter.saved
    assert "classifier.dense" in names(adapted)


def test_shapes_alone_will_do(llama):
    """For plans: an adapter of a model without values has none either."""
    model = jf.lora(llama, 4, "all-linear")
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(model))
