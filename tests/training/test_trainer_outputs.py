"""What a run leaves: a summary with plots, a pushed model with its card, results as JSON."""

import json
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.training import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of six steps with evaluations and throughput."""
    folder = tmp_path_factory.mktemp("run")
    trainer = small.trainer(
        folder, max_steps=6, run_summary=True, log_throughput=True, eval_strategy="steps", eval_steps=3,
        eval_dataset=small.rows(4), metric_for_best_model="loss",
    )  # fmt: skip
    trainer.train()
    return trainer


def test_plots_show_something(run: Any) -> None:
    folder = Path(run.args.output_dir) / "plots"
    assert sorted(path.stem for path in folder.glob("*.png")) == ["grad_norm", "learning_rate", "loss", "throughput"]
    for path in folder.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert pixels.shape[0] > 200 and pixels.shape[1] > 400
        colours = (pixels.max(-1).astype(int) - pixels.min(-1) > 60).mean()
        assert colours > 0.001, f"{path.name} has no coloured line"


def test_the_summary_tells_the_run(run: Any) -> None:
    folder = Path(run.args.output_dir)
    facts = json.loads((folder / "summary.json").read_text())
    assert facts["steps"] == 6 and facts["model"] == "bert" and facts["total_flos"] > 0
    assert facts["history"] == json.loads(json.dumps(run.state.log_history))
    assert facts["best"]["value"] == run.state.best_metric and facts["arguments"]["max_steps"] == 6
    page = (folder / "summary.md").read_text()
    assert "![loss](plots/loss.png)" in page and "| steps | 6 |" in page
    for line in page.splitlines():
        assert line.count("|") == 0 or line.startswith("|")


def test_results_as_transformers_scripts_write_them(run: Any, capsys: pytest.CaptureFixture) -> None:
    folder = Path(run.args.output_dir)
    run.save_metrics("eval", {"eval_loss": 0.5})
    run.save_metrics("train", {"train_loss": np.float32(0.25)})
    assert json.loads((folder / "all_results.json").read_text()) == {"eval_loss": 0.5, "train_loss": 0.25}
    run.save_state()
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 6
    run.log_metrics("eval", {"eval_loss": 0.5, "eval_samples": 4})
    assert capsys.readouterr().out.splitlines()[1:] == ["  eval_loss    = 0.5000", "  eval_samples =      4"]


class FakeHub:
    """The part of HfApi that a Trainer calls; uploads are listed with the files that they found."""

    uploads: list[dict[str, Any]] = []

    def create_repo(self, name: str, **options: Any) -> Any:
        assert options["exist_ok"] is True
        return SimpleNamespace(repo_id=f"someone/{name}")

    def upload_folder(self, *, folder_path: str, run_as_future: bool, **options: Any) -> Any:
        files = {str(p.relative_to(folder_path)) for p in Path(folder_path).rglob("*") if p.is_file()}
        FakeHub.uploads.append({**options, "files": files})
        job: Future = Future()
        job.set_result("done")
        return job if run_as_future else "done"


@pytest.mark.slow
def test_pushing_while_and_after_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    FakeHub.uploads = []
    trainer = small.trainer(
        tmp_path / "my-model", max_steps=2, save_strategy="steps", save_steps=1, push_to_hub=True,
        hub_strategy="all_checkpoints", hub_token="secret", eval_strategy="epoch", eval_dataset=small.rows(4),
    )  # fmt: skip
    trainer.train()
    trainer.evaluate()
    assert trainer.push_to_hub(tags=["tests"], dataset="someone/data", finetuned_from="google/bert") == "done"
    places = [upload.get("path_in_repo") for upload in FakeHub.uploads]
    assert places == [None, "checkpoint-1", None, "checkpoint-2", None]
    assert [u["commit_message"] for u in FakeHub.uploads][::2] == [
        "Training in progress, step 1", "Training in progress, step 2", "End of training",
    ]  # fmt: skip
    for upload in FakeHub.uploads:
        assert upload["repo_id"] == "someone/my-model" and upload["token"] == "secret"
    assert {"model.safetensors", "config.json", "training_args.json"} <= FakeHub.uploads[0]["files"]
    assert "trainer_state.json" in FakeHub.uploads[1]["files"]
    assert FakeHub.uploads[0]["ignore_patterns"] == ["_*", "checkpoint-*"]
    card = (tmp_path / "my-model" / "README.md").read_text()
    fields = yaml.safe_load(card.split("---")[1])
    assert fields["base_model"] == "google/bert" and fields["datasets"] == ["someone/data"]
    assert fields["pipeline_tag"] == "text-classification" and "tests" in fields["tags"]
    assert "eval_loss" in card and "secret" not in card + (tmp_path / "my-model" / "training_args.json").read_text()
