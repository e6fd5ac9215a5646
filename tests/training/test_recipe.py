"""TOML files of runs: what is written is read again, changes by name, and errors that say where."""

import tomllib
from pathlib import Path

import pytest

from jaxformers.core.errors import ConfigError
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.recipe import Recipe

TEXT = """
[model]
source = "./llama"

[data]
train = ["a.jsonl", "b.jsonl"]

[mesh]
fsdp = 8
tensor = -1
rules = "FSDP_TENSOR"

[mesh.dcn]
fsdp = 2

[training]
learning_rate = 1e-4
report_to = ["jsonl"]

[training.lr_scheduler_kwargs]
num_cycles = 2

[lora]
rank = 8
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(TEXT)
    return path


def test_sections_become_arguments(file: Path) -> None:
    args = Recipe.read(file).arguments()
    assert args.mesh == {"fsdp": 8, "tensor": -1, "dcn": {"fsdp": 2}} and args.rules == "FSDP_TENSOR"
    assert args.learning_rate == 1e-4 and args.lr_scheduler_kwargs == {"num_cycles": 2}
    assert args.report_to == ["jsonl"]


def test_what_is_written_is_read_again(file: Path, tmp_path: Path) -> None:
    recipe = Recipe.read(file)
    recipe.model |= {"config": {"model_type": "llama", "deep": {"a b": 'quo"te\n'}}, "nothing": None}
    recipe.write(tmp_path / "copy.toml")
    del recipe.model["nothing"]
    assert Recipe.read(tmp_path / "copy.toml") == recipe


def test_arguments_to_a_file_and_back(tmp_path: Path) -> None:
    args = TrainingArguments(
        "out", max_steps=5, eval_strategy="steps", eval_steps=2, mesh={"data": 2}, rules="DATA", disable_tqdm=False,
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"policy": "dots_saveable"}, hub_token="secret",
    )  # fmt: skip
    Recipe.of(args, model={"name": "x"}).write(tmp_path / "run.toml")
    assert "secret" not in (tmp_path / "run.toml").read_text()
    again = Recipe.read(tmp_path / "run.toml").arguments()
    assert again == args.replace(hub_token=None)
    assert set(tomllib.loads((tmp_path / "run.toml").read_text())) == {"model", "mesh", "training"}


def test_changes(file: Path) -> None:
    changes = [
        "training.learning_rate=3e-5",
        "model.source=org/name",
        "mesh.fsdp=4",
        "training.bf16=true",
        "lora.targets=['q']",
    ]
    recipe = Recipe.read(file, changes)
    assert recipe.training["learning_rate"] == 3e-5 and recipe.training["bf16"] is True
    assert recipe.model["source"] == "org/name" and recipe.mesh["fsdp"] == 4 and recipe.lora["targets"] == ["q"]


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("[trainig]\n", [], "did you mean training"),
        ("x = 1\n", [], "there are model"),
        ("model = 1\n", [], "outside of a section"),
        ("[model\n", [], "is not TOML"),
        ("", ["learning_rate=1"], "section.name=value"),
        ("", ["modle.source=1"], "did you mean model"),
        ("[mesh]\nfsdp = 'all'\n", [], "size of an axis"),
        ("[training]\nlearning_rat = 1\n", [], "did you mean learning_rate"),
    ],
)
def test_errors(text: str, changes: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Recipe.read(tmp_path / "run.toml", changes).arguments()
