"""Adapters made by peft and by us compute the same on both sides, train the same, and are written the same."""

import json
from pathlib import Path

import jax
import numpy as np
import peft
import pytest

import jaxformers as jf
from jaxformers.adapters.config import PREFIX
from jaxformers.adapters.save import adapter_entries
from jaxformers.adapters.targets import targets_of
from jaxformers.core.errors import AdapterError
from jaxformers.hub.model import Model
from tests.adapters import sides
from tests.adapters.sides import Case

LM, ALL = dict(task_type="CAUSAL_LM"), "all-linear"
CASES = [
    Case("LlamaForCausalLM", sides.LLAMA, dict(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], **LM)),
    Case("LlamaForCausalLM", sides.LLAMA, dict(r=3, target_modules=ALL, use_rslora=True, **LM), "all"),
    Case("BertForMaskedLM", sides.TEXT, dict(r=4, target_modules=["query", "value"])),
    Case("GPT2LMHeadModel", sides.GPT2, dict(r=4, target_modules=["c_attn"], fan_in_fan_out=True, **LM)),
    Case("GPT2LMHeadModel", sides.GPT2, dict(r=2, target_modules=ALL, bias="all", **LM), "all"),
    Case("T5ForConditionalGeneration", sides.T5, dict(r=4, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")),
    Case(
        "ViTForImageClassification", sides.VIT,
        dict(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], bias="lora_only"),
    ),
]  # fmt: skip
# What else the collection passes through: fused rows, shared layers, kernels used themselves, tables, mixed ranks.
FORWARD = [
    Case("GPTNeoXForCausalLM", sides.NEOX, dict(r=4, target_modules=["query_key_value", "embed_in"], **LM)),
    Case("AlbertForMaskedLM", sides.ALBERT, dict(r=4, target_modules=["query", "ffn"])),
    Case("DeepseekV3ForCausalLM", sides.DEEPSEEK, dict(r=4, target_modules=["q_b_proj", "kv_b_proj"], **LM)),
    # A recurrence adds up in another order. PyTorch passes by an adapter of dt_proj, so that is not compared.
    Case("MambaForCausalLM", sides.MAMBA, dict(r=4, target_modules=["x_proj", "embeddings"], **LM), tolerance=3e-5),
    Case(
        "LlamaForCausalLM", sides.LLAMA,
        dict(r=4, target_modules=r".*layers\.[12]\..*(q|up)_proj|lm_head|.*embed_tokens", lora_alpha=6,
             rank_pattern={r"layers\.1\..*q_proj": 7}, alpha_pattern={"up_proj": 3}, use_rslora=True),
        "patterns",
    ),
]  # fmt: skip


def parameters(cases: list[Case]) -> list:
    """Llama, BERT and GPT-2 in the quick stage, all in the second."""
    marks = [() if case in CASES[:1] + CASES[2:4] else (pytest.mark.slow,) for case in cases]
    return [pytest.param(case, marks=mark, id=str(case)) for case, mark in zip(cases, marks, strict=True)]


@pytest.fixture(scope="module", params=parameters(CASES + FORWARD))
def pair(request, tmp_path_factory):
    """A case, its folder, peft's model, and the scores it gives."""
    folder = tmp_path_factory.mktemp("pair")
    theirs = sides.with_peft(request.param, folder)
    return request.param, folder, theirs, sides.torch_scores(theirs, sides.inputs(request.param))


def test_theirs_computes_here(pair):
    """In either layout; without the adapter the scores are others."""
    case, folder, _, expected = pair
    one_by_one = sides.load(folder)
    stacked = jf.restack(one_by_one, scan=True)
    for model in (one_by_one, stacked):
        assert sides.gap(sides.scores(model(**sides.inputs(case))), expected) < case.tolerance
    plain = one_by_one.replace(adapters=None)
    assert sides.gap(sides.scores(plain(**sides.inputs(case))), expected) > 1e-2


def test_theirs_is_written_back_bit_for_bit(pair, tmp_path):
    case, folder, _, _ = pair
    sides.load(folder, scan=True).save_pretrained(tmp_path)
    ours, theirs = sides.file_of(tmp_path), sides.file_of(folder / "adapter")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)
    config = (Path(tmp_path) / "adapter_config.json").read_text()
    assert json.loads(config) == json.loads((folder / "adapter" / "adapter_config.json").read_text())


def test_merged_weights_are_theirs(pair, tmp_path):
    case, folder, theirs, expected = pair
    model = sides.load(folder)
    if any(target.tied and target.embedding for target in targets_of(model).values() if target.name in sited(model)):
        with pytest.raises(AdapterError, match="language-model head"):  # peft changes the head as well
            jf.merge_adapters(model)
        return
    merged = jf.merge_adapters(model)
    merged.save_pretrained(tmp_path / "ours")
    copy = peft.PeftModel.from_pretrained(sides.torch_model(case), folder / "adapter").merge_and_unload()
    copy.save_pretrained(tmp_path / "theirs")
    ours, reference = (Model.from_pretrained(tmp_path / side).params for side in ("ours", "theirs"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), ours, reference)
    back = jf.unmerge_adapters(merged, folder / "adapter")
    assert sides.gap(sides.scores(back(**sides.inputs(case))), expected) < case.tolerance
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), back.params, reference_of(back, model)
    )


def sited(model: Model) -> set[str]:
    """Names of the modules that have an adapter."""
    assert model.adapter is not None
    return {site.module for site in model.adapter.sites}


def reference_of(back: Model, model: Model):
    """The parameters before the merge, with trained copies where a merge has put them."""
    return model.variables["params"] if "saved" in back.adapters else model.params


@pytest.fixture(scope="module", params=parameters(CASES))
def trained(request, tmp_path_factory):
    """A case, its base folder, and a perturbed adapter of ours written beside it."""
    case, folder = request.param, tmp_path_factory.mktemp("ours")
    sides.torch_model(case).save_pretrained(folder / "base")
    options = dict(case.lora)
    names = {"r": "rank", "target_modules": "targets", "lora_alpha": "alpha", "use_rslora": "rslora"}
    given = {names.get(k, k): v for k, v in options.items() if k not in ("task_type", "fan_in_fan_out")}
    model = jf.lora(Model.from_pretrained(folder / "base", scan=True), **given, key=jax.random.key(1))
    sides.perturbed(model).save_pretrained(folder / "adapter")
    return case, folder, model


def test_a_fresh_adapter_changes_nothing(trained):
    case, folder, model = trained
    batch = sides.inputs(case)
    with_adapter, without = (sides.scores(m(**batch)) for m in (model, model.replace(adapters=None)))
    np.testing.assert_array_equal(with_adapter, without)


def test_ours_computes_there_and_trains_the_same(trained):
    """peft loads the file without a word about missing keys; scores and gradients are ours."""
    case, folder, _ = trained
    ours, batch = sides.load(folder), sides.inputs(case)
    theirs = peft.PeftModel.from_pretrained(sides.torch_model(case), folder / "adapter", is_trainable=True).eval()
    expected = sides.torch_scores(theirs, batch)
    weights = np.random.RandomState(1).randn(*expected.shape).astype(np.float32)

    @jax.jit
    def both(adapters):
        out = sides.scores(ours.replace(adapters=adapters)(**batch))
        return (out * weights).sum(), out

    (_, out), grads = jax.value_and_grad(both, has_aux=True)(ours.adapters)
    assert sides.gap(out, expected) < case.tolerance
    written = adapter_entries(ours.replace(adapters=grads), ours.adapter)
    reference = sides.torch_gradients(theirs, batch, weights)
    assert {PREFIX + name for name in written} == reference.keys()
    for name, entry in written.items():
        assert sides.gap(np.asarray(entry.materialise()), reference[PREFIX + name]) < 1e-4, name


def test_their_file_names_are_ours(trained, tmp_path):
    """The file holds what peft itself would write for these options."""
    case, folder, _ = trained
    theirs = sides.with_peft(case, tmp_path)
    del theirs
    shapes = [{k: v.shape for k, v in sides.file_of(f).items()} for f in (folder / "adapter", tmp_path / "adapter")]
    assert shapes[0] == shapes[1]
