"""Recipes to Trainers: new models from tables of sizes, packed tokens, pictures, chats, adapters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxformers.core.errors import ConfigError
from jaxformers.hub.auto_tokenizer import AutoTokenizer
from jaxformers.training.launch import make_trainer
from jaxformers.training.recipe import Recipe

SIZES = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
QUIET = dict(mesh="none", max_steps=2, save_strategy="no", disable_tqdm=True, run_summary=False, log_throughput=False)


def batches(trainer: Any) -> list[dict[str, np.ndarray]]:
    """Two batches as they come to the devices."""
    loader = iter(trainer.get_train_dataloader())
    return [{name: np.asarray(x) for name, x in next(loader).batch.items()} for _ in range(2)]


def test_a_new_language_model_on_packed_texts(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(["the cat sat on the mat", "a dog runs fast", "red house"] * 8))
    recipe = Recipe(
        model={
            "config": {"model_type": "llama", "vocab_size": 40, "num_key_value_heads": 1, **SIZES}, "task": "CausalLM",
            "processor": str(tiny_bert),
        },
        data={"train": str(tmp_path / "words.txt"), "pack": "first_fit", "length": 16, "transform": {"end": False}},
        training={**QUIET, "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 2},
        lora={"rank": 2, "targets": ["q_proj"]},
    )  # fmt: skip
    trainer = make_trainer(recipe)
    first, _ = batches(trainer)
    assert first["input_ids"].shape == (2, 16) and first["segment_ids"].max() > 1
    assert trainer.model.adapters is not None and trainer.compute_metrics is None
    trainer.train()
    assert np.isfinite(trainer.state.log_history[-1]["train_loss"])


def test_pictures_in_folders(tmp_path: Path) -> None:
    for name, level in (("dark", 20), ("light", 230)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for n in range(3):
            Image.new("RGB", (20, 20), (level, level, n)).save(tmp_path / "pictures" / name / f"{n}.png")
    (tmp_path / "processor").mkdir()
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (tmp_path / "processor" / "preprocessor_config.json").write_text(json.dumps(settings))
    recipe = Recipe(
        model={
            "config": {"model_type": "vit", "image_size": 16, "patch_size": 8, **SIZES}, "task": "ImageClassification",
            "processor": str(tmp_path / "processor"), "overrides": {"num_labels": 2},
        },
        data={"train": str(tmp_path / "pictures"), "eval_rows": 2},
        training={**QUIET, "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 2},
    )  # fmt: skip
    trainer = make_trainer(recipe)
    first, second = batches(trainer)
    assert first["pixel_values"].shape == (2, 3, 16, 16) and first["labels"].shape == (2,)
    assert not np.array_equal(first["pixel_values"], second["pixel_values"])
    assert len(trainer.eval_dataset.source) == 2 and trainer.compute_metrics is not None


def test_columns_have_other_names(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"sentence": "the cat", "class": n % 2} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = Recipe(
        model={"name": str(tiny_bert), "task": "SequenceClassification"},
        data={
            "train": str(tmp_path / "rows.jsonl"), "columns": {"sentence": "text", "class": "label"},
            "transform": {"kind": "text"},
        },
        training={**QUIET, "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 2},
    )  # fmt: skip
    first, _ = batches(make_trainer(recipe))
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert first["input_ids"][0].tolist() == tokenizer("the cat")["input_ids"] and set(first["labels"]) <= {0, 1}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {}, "needs name, to load, or config"),
        ("model", {"name": "a", "config": "b"}, "name and config"),
        ("model", {"config": {"model_type": "llama"}}, "which task"),
        ("data", {}, "needs train"),
        ("data", {"train": "rows.jsonl", "eval_rows": 9}, "held out"),
        ("data", {"train": "rows.jsonl", "pack": "concat"}, "length"),
        ("data", {"train": "rows.jsonl", "transform": {"kind": "txt"}}, "did you mean text"),
        ("data", {"train": "."}, "folder without pictures"),
    ],
)
def test_errors(section: str, values: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"input_ids": [1, 2], "labels": 0}\n' * 4)
    config = {"model_type": "bert", "vocab_size": 8, **SIZES}
    sections = {
        "model": {"config": config, "task": "SequenceClassification"}, "data": {"train": "rows.jsonl"},
        "training": QUIET, section: values,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        make_trainer(Recipe(**sections))
