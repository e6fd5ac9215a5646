"""`jaxformers parity`: equal models are called equal, and a spoilt one is named to the module."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

import jaxformers as jf
from jaxformers import cli
from jaxformers.export.compare import compare
from jaxformers.export.inputs import random_inputs
from jaxformers.hub.abstract import flatten

torch.set_num_threads(1)
SIZES = dict(
    vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=64,
)  # fmt: skip


def save(folder: Path, cls: str, **config) -> Path:
    """Save a random model of a transformers class, every number perturbed."""
    torch.manual_seed(0)
    kind = getattr(transformers, cls)
    model = kind(kind.config_class(**{**SIZES, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), "LlamaForCausalLM", num_key_value_heads=2, pad_token_id=0)


@pytest.fixture(scope="module")
def gpt_like(tmp_path_factory) -> Path:
    """A model whose file holds fused tensors."""
    return save(tmp_path_factory.mktemp("phi3"), "Phi3ForCausalLM", num_key_value_heads=2, pad_token_id=0)


def answer(capsys, *arguments) -> tuple[int, dict]:
    status = cli.main(["parity", *map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)


def load_both(path: Path, architecture: str, **kwargs):
    theirs = getattr(transformers, architecture).from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    return theirs.eval(), jf.Model.from_pretrained(path, **kwargs)


def spoil(model: jf.Model, name: str) -> jf.Model:
    """The same model with one leaf scaled, found by "layers/0/mlp/weight"; of a stacked leaf, its first layer."""

    def change(path, leaf):
        here = "/".join(str(p.key) for p in path if hasattr(p, "key"))
        if here != name:
            return leaf
        return leaf.at[0].multiply(1.5) if ":" in name else leaf * 1.5

    changed = jax.tree_util.tree_map_with_path(change, model)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(changed), strict=True))
    return changed


@pytest.mark.parametrize("options", [(), ("--scan",)], ids=["per layer", "scanned"])
def test_llama_is_equal(llama, capsys, options):
    status, facts = answer(capsys, llama, *options)
    assert status == 0 and facts["equal"] and facts["first"] is None
    fields = {f["name"]: f for f in facts["fields"]}
    assert set(fields) == {"logits", "hidden_states", "attentions"} and fields["hidden_states"]["entries"] == 4
    assert all(f["relative"] < 1e-5 and f["at"] is None for f in facts["fields"])


def test_bert_is_equal_on_texts(tiny_bert, capsys):
    status = cli.main(["parity", str(tiny_bert), "--text", "the cat sat", "--text", "a red house"])
    out = capsys.readouterr().out
    assert status == 0 and "pooler_output" in out and "differs" not in out and out.endswith("equal\n")


def test_a_low_precision_differs_and_says_where(llama, capsys):
    assert cli.main(["parity", str(llama), "--dtype", "bfloat16"]) == 1
    out = capsys.readouterr().out
    assert "differs" in out and "the first module that differs is backbone/embed (model.embed_tokens)" in out
    assert answer(capsys, llama, "--dtype", "bfloat16", "--tolerance", "0.2")[0] == 0


@pytest.mark.parametrize("scan", [False, True], ids=["per layer", "scanned"])
def test_a_spoilt_weight_is_named(llama, scan):
    theirs, ours = load_both(llama, "LlamaModel", task=None, scan=scan)
    inputs = random_inputs(theirs)
    assert compare(theirs, ours, inputs).equal
    if not scan:
        report = compare(theirs, spoil(ours, "layers/1/mlp/up_proj/weight"), inputs)
        assert report.first is not None and not report.equal
        assert report.first.module == "layers/1/mlp/up_proj" and report.first.theirs == "layers.1.mlp.up_proj"
        assert report.first.layer == "layers/1" and report.first.input_equal and report.first.relative > 1e-2
        assert {f.name: f.at for f in report.fields}["hidden_states"] == 2
    else:  # row 0 of the stacked leaf is layer 0
        report = compare(theirs, spoil(ours, "layers/0:3:1/0/attn/v_proj/weight"), inputs)
        assert report.first is not None and report.first.module == "layers/0/attn/v_proj"


@pytest.mark.parametrize(
    ("leaf", "module"),
    [
        ("backbone/embed/embedding", "backbone/embed"),
        ("backbone/layers/2/attn_pre/scale", "backbone/layers/2/attn_pre"),
        ("backbone/layers/1/attn/k_proj/weight", "backbone/layers/1/attn/k_proj"),
        ("backbone/norm/scale", "backbone/norm"),
        ("head/weight", "head"),
    ],
)
def test_every_place_is_named(llama, leaf, module):
    theirs, ours = load_both(llama, "LlamaForCausalLM")
    first = compare(theirs, spoil(ours, leaf), random_inputs(theirs)).first
    assert first is not None and first.module == module and first.input_equal


def test_parts_of_fused_tensors_are_told_apart(gpt_like):
    theirs, ours = load_both(gpt_like, "Phi3ForCausalLM")
    first = compare(theirs, spoil(ours, "backbone/layers/1/attn/v_proj/weight"), random_inputs(theirs)).first
    assert first is not None and first.module == "backbone/layers/1/attn/v_proj"
    assert first.theirs == "model.layers.1.self_attn.qkv_proj"


def test_experts_are_placed_in_their_layer(tmp_path):
    """PyTorch holds all experts in one tensor, so no module of its own answers for one of them."""
    save(tmp_path, "MixtralForCausalLM", num_key_value_heads=2, num_local_experts=4, pad_token_id=0)
    theirs, ours = load_both(tmp_path, "MixtralForCausalLM")
    leaves = ["/".join(path) for path in flatten(ours.params)]
    expert = next(name for name in leaves if "layers/1/" in name and "up" in name)
    first = compare(theirs, spoil(ours, expert), random_inputs(theirs)).first
    assert first is not None and (first.layer, first.module) == ("layers/1", None)


def test_a_formula_without_weights_is_placed(llama):
    """An activation has no weights: the module that reads it is named, and that its input differs."""
    theirs, ours = load_both(llama, "LlamaForCausalLM")
    for layer in theirs.model.layers[1:]:
        layer.mlp.act_fn = torch.nn.GELU()
    first = compare(theirs, ours, random_inputs(theirs)).first
    assert first is not None and first.module == "backbone/layers/1/mlp/down_proj" and first.input_equal is False


def test_without_torch_it_says_what_to_install(llama, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["parity", str(llama)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install 'jaxformers[test]'" in error


def test_mistakes(llama, capsys):
    assert cli.main(["parity", str(llama), "--length", "0"]) == 2
    assert "--length is 0" in capsys.readouterr().err
    assert cli.main(["parity", str(llama), "--task", "MaskedLM"]) == 2
    assert "its heads are" in capsys.readouterr().err


IMAGES = dict(image_size=16, patch_size=8, num_hidden_layers=2)
SOUNDS = dict(
    num_hidden_layers=2, conv_dim=[16, 16], conv_stride=[160, 2], conv_kernel=[160, 2], num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
)  # fmt: skip
SPEECH = dict(
    d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=12, max_target_positions=16, num_mel_bins=8,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip
# class, its sizes, a leaf of ours, the module it belongs to and its name in PyTorch
SENSES = [
    ("ViTForImageClassification", IMAGES, "layers/1/mlp/fc1/weight", "vit.layers.1.mlp.fc1"),
    ("Wav2Vec2ForCTC", SOUNDS, "layers/1/attn/k_proj/weight", "wav2vec2.encoder.layers.1.attention.k_proj"),
    (
        "WhisperForConditionalGeneration", SPEECH, "decoder/layers/0/cross/q_proj/weight",
        "model.decoder.layers.0.encoder_attn.q_proj",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "sizes", "leaf", "theirs"), SENSES, ids=[s[0] for s in SENSES])
def test_images_and_sounds(tmp_path, capsys, cls, sizes, leaf, theirs):
    """Random pictures and sounds of the config's size: equal as they are, and a spoilt weight is named."""
    save(tmp_path, cls, **sizes)
    status, facts = answer(capsys, tmp_path)
    assert status == 0 and facts["equal"] and "logits" in {f["name"] for f in facts["fields"]}
    reference, ours = load_both(tmp_path, cls)
    name = next(n for n in map("/".join, flatten(ours.params)) if n.endswith(leaf))
    report = compare(reference, spoil(ours, name), random_inputs(reference))
    assert report.first is not None and not report.equal
    assert report.first.module == name.rpartition("/")[0] and report.first.theirs == theirs
    assert report.first.input_equal


def test_inputs_that_nothing_makes_are_named(tmp_path, capsys):
    text = {"model_type": "qwen2", **SIZES, "num_key_value_heads": 2}
    save(tmp_path, "JevForDecision", text_config=text, hidden_size=32)
    assert cli.main(["parity", str(tmp_path)]) == 2
    assert "JevForDecision reads marks, num_options, question_type_ids, for which" in capsys.readouterr().err
