"""`jaxformers train` as two processes: the losses and the model of one, killed and started again included."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training.test_processes import free_port

pytestmark = pytest.mark.slow
PATIENCE = 300
TEXT = """
[model]
task = "CausalLM"

[model.config]
model_type = "llama"
vocab_size = 32
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 2
intermediate_size = 16

[data]
train = "{folder}/rows.jsonl"
eval = "{folder}/rows.jsonl"

[mesh]
fsdp = 2
tensor = 2
rules = "FSDP_TENSOR"

[training]
output_dir = "{out}"
max_steps = 8
per_device_train_batch_size = 2
save_steps = 3
save_total_limit = 1
logging_steps = 1
eval_strategy = "steps"
eval_steps = 4
report_to = ["jsonl"]
disable_tqdm = true
resume_from_checkpoint = "auto"
"""


def start(config: Path, out: Path, count: int, programs: Path) -> list[subprocess.Popen]:
    """The processes of a run, with four devices together."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={4 // count}")
    env = {**os.environ, "XLA_FLAGS": flags, "JAXFORMERS_HEARTBEAT_SECONDS": "10"}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if count > 1:
        env |= {"JAXFORMERS_COORDINATOR": f"127.0.0.1:{free_port()}", "JAXFORMERS_NUM_PROCESSES": str(count)}
    command = [sys.executable, "-m", "jaxformers.cli", "--traceback", "train", str(config)]
    command += ["--set", f"training.output_dir={out}"]
    log = open(config.parent / f"log-{out.name}.txt", "a")
    own = [{"JAXFORMERS_PROCESS_ID": str(n)} if count > 1 else {} for n in range(count)]
    return [subprocess.Popen(command, env={**env, **one}, stdout=log, stderr=log) for one in own]


def end(processes: list[subprocess.Popen], config: Path) -> list[int]:
    """The exit status of each, which are then all gone."""
    try:
        return [process.wait(PATIENCE) for process in processes]
    except subprocess.TimeoutExpired:
        raise AssertionError("\n".join(p.read_text()[-3000:] for p in config.parent.glob("log-*.txt"))) from None
    finally:
        for process in processes:
            process.kill()


def said(config: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in config.parent.glob("log-*.txt"))


def logged(out: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "logs.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def test_two_processes_do_what_one_does_also_when_told_to_end(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [{"input_ids": ids, "labels": ids} for ids in draw.integers(1, 32, (10, 8)).tolist()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = tmp_path / "run.toml"
    config.write_text(TEXT.format(folder=tmp_path, out=tmp_path / "unused"))
    one, two, ended = (tmp_path / name for name in ("one", "two", "ended"))
    assert end(start(config, one, 1, tmp_path / "programs"), config) == [0], said(config)
    assert end(start(config, two, 2, tmp_path / "programs"), config) == [0, 0], said(config)
    assert len(logged(two, "loss")) == 8 and len(logged(two, "eval_loss")) == 3
    for name in ("loss", "eval_loss", "grad_norm"):
        np.testing.assert_allclose(logged(two, name), logged(one, name), rtol=1e-5)
    tensors = [load_file(out / "model.safetensors") for out in (one, two)]
    for name, tensor in tensors[0].items():
        np.testing.assert_allclose(tensors[1][name], tensor, atol=1e-5, err_msg=name)
    processes = start(config, ended, 2, tmp_path / "programs")
    deadline = time.monotonic() + PATIENCE
    while not (ended / "logs.jsonl").exists() or len(logged(ended, "loss")) < 2:
        assert time.monotonic() < deadline and processes[0].poll() is None, said(config)
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    assert end(processes, config) in ([143, 143], [0, 0]), said(config)
    assert end(start(config, ended, 2, tmp_path / "programs"), config) == [0, 0], said(config)
    assert logged(ended, "loss") == logged(two, "loss")
