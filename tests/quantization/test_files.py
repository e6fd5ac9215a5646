"""Quantised checkpoints: our files in PyTorch, PyTorch's in ours, rounding while reading, and what is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

import jaxformers as jf
from jaxformers.core.errors import CheckpointError, ConfigError
from jaxformers.core.qtensor import QTensor
from jaxformers.hub import safetensors
from jaxformers.hub.abstract import flatten
from jaxformers.hub.compressed import pack_words, unpack_words
from tests.hub.tiny import llama

IDS = np.arange(1, 21).reshape(2, 10)
KINDS = [("int8", None), ("int8", 32), ("int4", 32), ("fp8", None)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    llama(path, num_hidden_layers=2)
    return path


def same(one: jf.Model, two: jf.Model) -> None:
    """Both hold the same leaves."""
    assert jax.tree.structure(one.params) == jax.tree.structure(two.params)
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_pytorch_loads_our_files_and_computes_the_same(folder: Path, tmp_path: Path, kind: str, group) -> None:
    q = jf.quantize(jf.AutoModelForCausalLM.from_pretrained(folder), kind, group_size=group)
    q.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")  # before the first call, which unpacks the weights
    with torch.no_grad():
        truth = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(q(jnp.asarray(IDS)).logits, truth, atol=1e-5)
    same(jf.AutoModelForCausalLM.from_pretrained(tmp_path / "ours"), q)
    same(jf.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs"), q)
    stacked = jf.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", scan=True)
    same(jf.restack(stacked, scan=False), q)
    stacked.save_pretrained(tmp_path / "again")
    names = [safetensors.read(tmp_path / name / "model.safetensors") for name in ("ours", "again")]
    assert {k: v.tobytes() for k, v in names[0].items()} == {k: v.tobytes() for k, v in names[1].items()}


def test_an_encoder_names_its_matrices(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=40)
    config = transformers.BertConfig(**sizes, max_position_embeddings=16, num_labels=3)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    model = jf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert", quantize="int8")
    model.save_pretrained(tmp_path / "ours")
    scheme = json.loads((tmp_path / "ours" / "config.json").read_text())["quantization_config"]
    assert "bert.encoder.layer.0.attention.self.query" in scheme["config_groups"]["group_0"]["targets"]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        truth = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(model(jnp.asarray(IDS)).logits, truth, atol=1e-5)
    same(jf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours"), model)


@pytest.mark.parametrize(("kind", "group"), [("int4", 32), ("fp8", None)])
def test_rounding_while_reading_is_rounding_afterwards(folder: Path, kind: str, group) -> None:
    rounding = jf.Rounding(kind, group, skip=("o_proj",))
    for options in ({}, {"scan": True}, {"dtype": "bfloat16"}):
        model = jf.AutoModelForCausalLM.from_pretrained(folder, **options)
        found = jf.AutoModelForCausalLM.from_pretrained(folder, quantize=rounding, **options)
        if "dtype" in options:  # rounded from what the file holds, not from what it was cast to
            leaf = flatten(found.params)["backbone", "layers", "0", "mlp", "up_proj", "weight"]
            assert leaf.dtype == leaf.scale.dtype == jnp.bfloat16
            errors = [jf.quantization_errors(model, m) for m in (found, jf.quantize(model, kind, group_size=group))]
            assert errors[0].worst.error < 1.1 * errors[1].worst.error
        else:
            same(found, jf.quantize(model, kind, group_size=group, skip="o_proj"))


def test_each_device_reads_its_part(folder: Path, tmp_path: Path) -> None:
    mesh = jf.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    whole = jf.AutoModelForCausalLM.from_pretrained(folder, quantize=jf.Rounding("int4", 32))
    whole.save_pretrained(tmp_path)
    for source, options in ((folder, {"quantize": jf.Rounding("int4", 32)}), (tmp_path, {})):
        part = jf.AutoModelForCausalLM.from_pretrained(source, mesh=mesh, rules=jf.FSDP_TENSOR, **options)
        jax.tree.map(np.testing.assert_array_equal, part.params, whole.params)
        leaf = flatten(part.params)["backbone", "layers", "0", "mlp", "up_proj", "weight"]
        assert isinstance(leaf, QTensor)
        assert leaf.values.addressable_shards[0].data.size * 4 == leaf.values.size
    part.save_pretrained(tmp_path / "again")
    same(jf.AutoModelForCausalLM.from_pretrained(tmp_path / "again"), whole)


def test_experts_are_stored_one_by_one(tmp_path: Path) -> None:
    sizes = dict(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    config = jf.AutoConfig.for_model("mixtral", **sizes, num_key_value_heads=2, num_local_experts=4)
    q = jf.quantize(jf.AutoModelForCausalLM.from_config(config, jax.random.key(0)), "int8")
    q.save_pretrained(tmp_path)
    names = set(safetensors.read(tmp_path / "model.safetensors"))
    assert "model.layers.0.block_sparse_moe.experts.3.w1.weight_packed" in names
    assert "model.layers.0.block_sparse_moe.gate.weight" in names
    same(jf.AutoModelForCausalLM.from_pretrained(tmp_path), q)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("inputs", [64, 37])
def test_words_are_packed_as_the_package_packs_them(bits: int, inputs: int) -> None:
    low = -(2 ** (bits - 1))
    values = np.random.default_rng(0).integers(low, -low, (3, inputs)).astype(np.int8)
    packed = pack_words(values, bits)
    np.testing.assert_array_equal(packed, pack_to_int32(torch.tensor(values), bits).numpy())
    np.testing.assert_array_equal(unpack_words(packed, bits, inputs), values)


def test_what_is_not_read_is_refused(folder: Path, tmp_path: Path) -> None:
    q = jf.AutoModelForCausalLM.from_pretrained(folder, quantize="int8")
    q.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="quantised already"):
        jf.AutoModelForCausalLM.from_pretrained(tmp_path, quantize="int8")
    file = tmp_path / "config.json"
    raw = json.loads(file.read_text())

    def with_scheme(**changes) -> None:
        scheme = json.loads(json.dumps(raw["quantization_config"]))
        weights = scheme["config_groups"]["group_0"]
        for name, value in changes.items():
            (scheme if name in scheme else weights if name in weights else weights["weights"])[name] = value
        file.write_text(json.dumps({**raw, "quantization_config": scheme}))

    for changes, why in (
        ({"quant_method": "gptq"}, "quantization_config"),
        ({"format": "nvfp4-pack-quantized"}, "nvfp4"),
        ({"symmetric": False}, "asymmetric"),
        ({"strategy": "block"}, "by block"),
        ({"input_activations": {"num_bits": 8, "dynamic": False}}, "fixed scales"),
    ):
        with_scheme(**changes)
        with pytest.raises(ConfigError, match=why):
            jf.AutoConfig.from_pretrained(tmp_path)
    with_scheme(input_activations={"num_bits": 8, "dynamic": True})
    same(jf.AutoModelForCausalLM.from_pretrained(tmp_path), q)
    tensors = {name: np.array(x) for name, x in safetensors.read(tmp_path / "model.safetensors").items()}
    name = "model.layers.0.mlp.up_proj.weight"
    for change, error, why in (
        ({f"{name}_zero_point": np.zeros((16, 1), np.int32)}, ConfigError, "zero_point"),
        ({f"{name}_packed": tensors[f"{name}_packed"][:, 1:]}, CheckpointError, "8 or 4 bits"),
        ({f"{name}_scale": tensors[f"{name}_scale"][1:]}, CheckpointError, "has shape"),
    ):
        (tmp_path / "model.safetensors").unlink()  # mapped files must not shrink
        safetensors.write(tmp_path / "model.safetensors", {**tensors, **change})
        with pytest.raises(error, match=why):
            jf.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_matrices_that_are_no_linear_of_pytorch_cannot_be_saved(tmp_path: Path) -> None:
    config = jf.AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, vocab_size=40, n_positions=16)
    q = jf.quantize(jf.AutoModelForCausalLM.from_config(config, jax.random.key(0)), "int8")
    with pytest.raises(CheckpointError, match="not the weight of a Linear"):
        q.save_pretrained(tmp_path / "gpt2")
    assert not (tmp_path / "gpt2").exists()
