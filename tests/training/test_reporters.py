"""Reporters write what was logged where their programs read it; a missing package names its extra."""

import csv
import json
import math
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import jaxformers as jf
from jaxformers.core.errors import ConfigError, MissingExtra
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.callbacks.callback import TrainerControl
from jaxformers.training.reporters import REPORTERS, available, reporters
from jaxformers.training.trainer_state import TrainerState

LOGS = [
    (2, {"loss": 1.5, "learning_rate": 1e-4, "epoch": 0.5}),
    (4, {"loss": 1.25, "grad_norm": 0.5, "epoch": 1.0}),
    (4, {"eval_loss": 1.125, "eval_runtime": 0.25, "epoch": 1.0}),
]
MODEL = SimpleNamespace(config=jf.AutoConfig.for_model("bert", hidden_size=48))


def report(name: str, folder: Path, **arguments) -> None:
    """Send the logs of a short run to one reporter."""
    (callback,) = reporters([name])
    args = TrainingArguments(str(folder), **arguments)
    state, control = TrainerState(max_steps=4), TrainerControl()
    callback.on_train_begin(args, state, control, model=MODEL)
    for step, logs in LOGS:
        state.global_step = step
        state.log_history.append({**logs, "step": step})
        callback.on_log(args, state, control, logs=logs, model=MODEL)
    callback.on_train_end(args, state, control)


def read_events(folder: Path) -> list:
    """The events of TensorBoard's files: records of length, its checksum, bytes and their checksum."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    def masked(data: bytes) -> int:
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    events = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            body = data[at + 12 : at + 12 + length]
            (check,) = struct.unpack("<I", data[at + 12 + length : at + 16 + length])
            assert check == masked(body)
            events.append(Event.FromString(body))
            at += 16 + length
    return events


def read_wandb(data: bytes) -> list:
    """The records of a .wandb file: LevelDB's log after a header of 7 bytes, in blocks of 32 KB."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, whole, records = 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last piece of one
            records.append(Record.FromString(whole))
            whole = b""
    return records


def test_json_lines(tmp_path: Path) -> None:
    report("jsonl", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "logs.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k not in ("time", "step")} for row in rows] == [logs for _, logs in LOGS]
    assert [row["step"] for row in rows] == [2, 4, 4]


def test_json_lines_go_on_where_a_run_was_cut_off(tmp_path: Path) -> None:
    report("jsonl", tmp_path)
    path = tmp_path / "logs.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "lo')
    (callback,) = reporters(["jsonl"])
    callback.on_train_begin(TrainingArguments(str(tmp_path)), TrainerState(global_step=2), TrainerControl())
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2]


def test_csv(tmp_path: Path) -> None:
    report("csv", tmp_path)
    rows = list(csv.DictReader((tmp_path / "logs.csv").open()))
    assert [(row["step"], row["loss"], row["eval_loss"]) for row in rows] == [
        ("2", "1.5", ""), ("4", "1.25", ""), ("4", "", "1.125"),
    ]  # fmt: skip


def test_tensorboard(tmp_path: Path) -> None:
    report("tensorboard", tmp_path)
    events = read_events(tmp_path / "runs")
    scalars = {(e.step, v.tag): v.simple_value for e in events for v in e.summary.value if v.HasField("simple_value")}
    assert scalars[2, "train/loss"] == 1.5 and scalars[4, "train/grad_norm"] == 0.5
    assert scalars[4, "eval/loss"] == 1.125 and math.isclose(scalars[2, "train/learning_rate"], 1e-4, rel_tol=1e-6)
    texts = {v.tag: v.tensor.string_val for e in events for v in e.summary.value if not v.HasField("simple_value")}
    config = next(value for tag, value in texts.items() if tag.startswith("model_config"))
    assert json.loads(config[0])["hidden_size"] == 48


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    report("wandb", tmp_path, run_name="first", project="tests")
    assert wandb.run is not None and wandb.run.project == "tests" and wandb.run.name == "first"
    assert wandb.run.config["hidden_size"] == 48 and wandb.run.config["learning_rate"] == 5e-5
    wandb.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    for _ in range(100):  # another process writes the file
        records = read_wandb(file.read_bytes())
        if records and records[-1].WhichOneof("record_type") == "exit":
            break
        time.sleep(0.1)
    history = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    rows = [{".".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in history]
    assert [row.get("train/loss") for row in rows] == [1.5, 1.25, None]
    assert [row["train/global_step"] for row in rows] == [2, 4, 4] and rows[2]["eval/loss"] == 1.125


def test_mlflow_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/store")
    report("mlflow", tmp_path, run_name="first")
    assert mlflow.active_run() is None
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.run_name == "first" and run.info.status == "FINISHED"
    assert run.data.params["hidden_size"] == "48" and run.data.params["learning_rate"] == "5e-05"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(2, 1.5), (4, 1.25)]
    assert run.data.metrics["eval_loss"] == 1.125


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "train"), ("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_missing_package_names_its_extra(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, REPORTERS[name][1], None)
    with pytest.raises(MissingExtra, match=rf"jaxformers\[{extra}\]"):
        reporters([name])


def test_names() -> None:
    assert set(available()) == set(REPORTERS) and len(reporters(["all"])) == len(REPORTERS)
    with pytest.raises(ConfigError, match="comet_ml.*tensorboard"):
        reporters(["comet_ml"])
