"""`jaxformers train`: from a TOML file to a model, with changes, resuming, and errors of one line."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.cli import main

TEXT = """
[model]
name = "{model}"
task = "SequenceClassification"
overrides = {{num_labels = 2}}

[data]
train = "{data}/*.jsonl"
eval_rows = 4
length = 8

[training]
output_dir = "{out}"
mesh = "none"
max_steps = 3
per_device_train_batch_size = 4
save_steps = 2
logging_steps = 1
disable_tqdm = true
report_to = ["jsonl"]

[tiny.training]
max_steps = 1
"""


@pytest.fixture
def config(tiny_bert: Path, tmp_path: Path) -> Path:
    """A run over two files of texts whose class is their animal."""
    for part in range(2):
        lines = [{"text": f"the {'cat' if n % 2 else 'dog'} sat on the mat", "label": n % 2} for n in range(10)]
        (tmp_path / f"part{part}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = tmp_path / "run.toml"
    path.write_text(TEXT.format(model=tiny_bert, data=tmp_path, out=tmp_path / "out"))
    return path


@pytest.mark.slow
def test_a_run_from_a_file_and_on_from_its_checkpoint(config: Path) -> None:
    out = config.parent / "out"
    assert main(["train", str(config), "--set", "training.learning_rate=1e-3"]) == 0
    results = json.loads((out / "all_results.json").read_text())
    assert results["train_loss"] > 0 and 0 <= results["eval_accuracy"] <= 1
    assert tomllib.loads((out / "recipe.toml").read_text())["training"]["learning_rate"] == 1e-3
    names = {path.name for path in out.iterdir()}
    assert {"checkpoint-2", "checkpoint-3", "model.safetensors", "tokenizer.json", "summary.md", "logs.jsonl"} <= names
    first = [json.loads(line) for line in (out / "logs.jsonl").read_text().splitlines()]
    assert main(["train", str(config), "--resume", "--set", "training.max_steps=5"]) == 0
    again = [json.loads(line) for line in (out / "logs.jsonl").read_text().splitlines()]
    assert [row["step"] for row in again if "loss" in row] == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in again if "loss" in row][:3] == [row["loss"] for row in first if "loss" in row]
    model = jf.AutoModelForSequenceClassification.from_pretrained(out)
    assert model(input_ids=np.array([[2, 5, 3]])).logits.shape == (1, 2)


def test_show_prints_the_run_with_its_changes(config: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", str(config), "--show", "--set", "lora.rank=4"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert shown["lora"] == {"rank": 4} and shown["training"]["max_steps"] == 3
    assert main(["train", str(config), "--show", "--tiny"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["training"]["max_steps"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.learning_rat=1", "did you mean learning_rate"),
        ("modle.name=x", "did you mean model"),
        ("model.nam=x", "did you mean name"),
        ("data.trian=x", "did you mean train"),
        ("data.train=nowhere.jsonl", "no file is named"),
        ("data.pack=tight", "there are first_fit"),
        ("mesh.rules=FSPD", "no preset"),
    ],
)
def test_errors_are_one_line(config: Path, change: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", str(config), "--set", change]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("jaxformers train: error:")


def test_help_has_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "jaxformers train run.toml --resume" in capsys.readouterr().out
