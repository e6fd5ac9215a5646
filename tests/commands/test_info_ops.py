"""`jaxformers info --ops`: which implementation each op of a model takes, from a config alone."""

import json
from pathlib import Path

import pytest

from jaxformers.cli import main

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 99, "hidden_size": 512,
    "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return str(tmp_path)


def uses(capsys: pytest.CaptureFixture, *options: str) -> list[dict]:
    assert main(["info", *options, "--ops", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_this_machine(config: str, capsys: pytest.CaptureFixture) -> None:
    use, one = uses(capsys, config, "--length", "300")
    assert (use["step"], one["step"], one["chosen"]) == ("forward", "decode", "reference")
    assert one["shapes"] == "bfloat16, [1,1,4,128] [1,300,2,128] [1,300,2,128], causal padding"
    assert (use["op"], use["chosen"], use["calls"]) == ("attention", "reference", 3)
    assert use["shapes"] == "bfloat16, [1,300,4,128] [1,300,2,128] [1,300,2,128], causal"
    assert ["flash_tpu", "for tpu, not cpu"] in use["refused"]


def test_a_tpu_that_is_not_there(config: str, capsys: pytest.CaptureFixture) -> None:
    found = uses(capsys, config, "--topology", "v5e:2x2", "--mesh", "fsdp=2,tensor=2", "--batch", "4")
    assert [(use["step"], use["chosen"]) for use in found] == [("forward", "flash_tpu"), ("decode", "decode_tpu")]
    few, _ = uses(capsys, config, "--topology", "v5e:2x2", "--length", "16")
    assert ["flash_tpu", "16 queries are too few; meant for 128 and more"] in few["refused"]


def test_a_table(config: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["info", config, "--ops", "--dtype", "float32"]) == 0
    shown = capsys.readouterr().out
    assert "attention" in shown and "taken" in shown and "cpu" in shown


def test_rules_that_are_unknown(config: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["info", config, "--ops", "--rules", "SOME"]) == 2
    assert "expected one of" in capsys.readouterr().err


def test_quantised_products(config: str, capsys: pytest.CaptureFixture) -> None:
    wide = {**LLAMA, "intermediate_size": 256}
    (Path(config) / "config.json").write_text(json.dumps(wide))
    found = uses(capsys, config, "--quantize", "int4", "--topology", "v5e:2x2")
    products = [use for use in found if use["op"] == "quantized_dot"]
    assert {use["chosen"] for use in products} == {"pallas_tpu"}
    assert products[0]["shapes"] == "bfloat16, [1,1024,512] [512,512], int4 by 128"
    products = [use for use in uses(capsys, config, "--quantize", "fp8") if use["op"] == "quantized_dot"]
    assert {use["chosen"] for use in products} == {"cpu", "reference"}
    assert all(["pallas_tpu", "for tpu, not cpu"] in use["refused"] for use in products if use["chosen"] == "reference")
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64}
    scheme = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"0": {"weights": weights}},
    }
    (Path(config) / "config.json").write_text(json.dumps({**wide, "quantization_config": scheme}))
    assert any("int8 by 64" in use["shapes"] for use in uses(capsys, config))
    assert main(["shard", config, "--mesh", "tensor=2", "--rules", "TENSOR", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows["backbone/layers/0/mlp/up_proj/weight/values"]["bytes_per_device"] == 256 * 512 // 2
