"""The tiny form of every recipe trains: its losses are finite and its steps are done."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxformers.cli import main

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.toml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_tiny_form_trains(path: Path, tmp_path: Path) -> None:
    changes = {
        "training.output_dir": json.dumps(str(tmp_path)),
        "training.logging_steps": 1,
        "training.disable_tqdm": "true",
        "training.report_to": "[]",
    }
    options = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    assert main(["train", str(path), "--tiny", *options]) == 0
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert state["global_step"] == len(losses) == 4
    assert np.isfinite(losses).all() and max(losses) > 0
    assert (tmp_path / "config.json").exists() or (tmp_path / "adapter_config.json").exists()
