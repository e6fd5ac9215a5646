"""The examples run, offline and without torch, and do what they say."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxformers as jf
from tests.hub import tiny

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NO_TORCH = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "


def load(name: str):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments) -> str:
    """What an example prints, run as a user runs it but with torch made absent."""
    program = f"{NO_TORCH}sys.argv = {[name, *map(str, arguments)]!r}; import runpy; "
    program += f"runpy.run_path({str(EXAMPLES / name) + '.py'!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    short = {"embed_and_search", "sharded_llama", "convert_bin", "decode_with_cache", "train_step", "lora"}
    assert names == short | {"digits_vit", "classify_docstrings"}


def test_embed_and_search(tiny_bert):
    lines = run("embed_and_search", tiny_bert, "the cat").splitlines()
    scores = [float(line.split()[0]) for line in lines[1:]]
    assert lines[0] == "the cat" and len(scores) == 4 and scores == sorted(scores, reverse=True)


def test_embed_and_search_with_real_weights():
    """The weights are installed with the tests, so this is what a reader of the README sees."""
    first = load("embed_and_search").main(question="how do I open a zip file?")[0]
    assert first.startswith("zipfile")


def test_sharded_llama():
    shapes, losses = run("sharded_llama").splitlines()
    assert shapes == "up_proj of all layers (4, 128, 64), on each device (4, 32, 32)"
    before, after = (float(word) for word in losses.replace(",", "").split() if word[0].isdigit())
    assert 4 < before < 6 and after < before


def test_convert_bin(tmp_path):
    theirs = tiny.llama(tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    (tmp_path / "old" / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    assert "Model(llama, task=CausalLM" in run("convert_bin", tmp_path / "old", tmp_path / "new")
    assert not (tmp_path / "new" / "pytorch_model.bin").exists()
    from safetensors.torch import load_file

    written = load_file(tmp_path / "new" / "model.safetensors")
    assert set(written) == set(theirs.state_dict())
    assert all(torch.equal(written[name], tensor) for name, tensor in theirs.state_dict().items())
    assert json.loads((tmp_path / "new" / "config.json").read_text())["architectures"] == config["architectures"]


def test_convert_bin_explains_itself():
    done = subprocess.run([sys.executable, EXAMPLES / "convert_bin.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "./old-checkpoint ./new-checkpoint" in done.stderr


@pytest.mark.parametrize("new", [1, 6])
def test_decode_with_cache(new):
    """The cached loop gives the tokens of a loop without a cache."""
    module = load("decode_with_cache")
    model = jf.Model.init(module.CONFIG, jax.random.key(0), task="CausalLM")
    ids = prompt = jnp.array([[1, 5, 9, 13], [1, 7, 3, 2]])
    for _ in range(new):
        ids = jnp.concatenate([ids, module.best(model(input_ids=ids).logits)[:, None]], axis=1)
    np.testing.assert_array_equal(module.greedy(model, prompt, new), ids[:, 4:])


def test_decode_with_cache_prints():
    assert run("decode_with_cache").count("[") == 3


def test_train_step():
    lines = run("train_step").splitlines()
    first = float(lines[0].split("loss ")[1].split(",")[0])
    held_out = float(lines[-1].split()[2])
    assert lines[-1].endswith("over 1008 bytes") and 4.5 < first < 5.5 and held_out < 3.3


def test_lora():
    model, losses, merged = run("lora").splitlines()
    assert "adapters=" in model and "adapters=" not in merged
    before, after = (float(word.strip(",")) for word in losses.split() if word[0].isdigit())
    assert after < 0.95 * before and f"{after:.3f}" in merged


@pytest.mark.slow
def test_digits(tmp_path):
    """The whole run, as the documentation states it."""
    assert load("digits_vit").main(output_dir=tmp_path) >= 0.97


@pytest.mark.slow
def test_classify_docstrings(tmp_path):
    """A short form with five of the modules: adapters beat what embeddings say without training."""
    example = load("classify_docstrings")
    found = example.main(["email", "logging", "multiprocessing", "tkinter", "turtle"], 4, tmp_path)
    assert found["nearest description"] > found["always the commonest"]
    assert found["LoRA"] > found["nearest description"] + 0.05 and found["LoRA"] > 0.75
    adapter = tmp_path / "adapter"
    assert (adapter / "adapter_model.safetensors").exists()
