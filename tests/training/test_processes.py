"""Runs as they are started: as several processes, ended at any moment, started again.

Each run is `small_run.py` in processes of its own, over loopback, with two devices each.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.training.checkpoints import Checkpoints
from jaxformers.training.preemption import EXIT_STATUS
from jaxformers.training.step import make_train_step
from tests.training import small_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STEPS = 10
PATIENCE = 240  # seconds that a run may take on a busy machine


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Run:
    """The processes of one start of a run."""

    cache = ""  # of compiled programs, for the runs of this module: most of them start what another has compiled

    def __init__(self, folder: Path, *options: str, count: int = 1, devices: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        command = [sys.executable, "-m", "tests.training.small_run", str(folder), "--steps", str(STEPS), *options]
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
        env = {**os.environ, "XLA_FLAGS": flags, "JAXFORMERS_HEARTBEAT_SECONDS": "10"}
        env |= {"JAX_COMPILATION_CACHE_DIR": self.cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        if count > 1:
            env |= {"JAXFORMERS_COORDINATOR": f"127.0.0.1:{free_port()}", "JAXFORMERS_NUM_PROCESSES": str(count)}
        self.logs = [open(folder / f"log-{index}.txt", "a") for index in range(count)]
        self.processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={**env, "JAXFORMERS_PROCESS_ID": str(index)} if count > 1 else env,
                stdout=log,
                stderr=log,
            )
            for index, log in enumerate(self.logs)
        ]

    def wait(self) -> list[int]:
        """The exit status of each."""
        try:
            return [process.wait(PATIENCE) for process in self.processes]
        finally:
            self.end()

    def finish(self) -> None:
        """Wait for a good end."""
        assert self.wait() == [0] * len(self.processes), self.said()

    def said(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in sorted(self.folder.glob("log-*.txt")))

    def end(self) -> None:
        """SIGKILL for all that still run."""
        for process in self.processes:
            process.kill()
            process.wait()
        for log in self.logs:
            log.close()

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something while the run goes on."""
        end = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < end and self.processes[0].poll() is None, self.said()
            time.sleep(0.002)


def lines(folder: Path) -> list[dict]:
    path = folder / "losses.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def losses(folder: Path) -> list[str]:
    """The loss of every step to the last bit; a step done twice must have given the same both times."""
    found: dict[int, str] = {}
    for line in lines(folder):
        assert found.setdefault(line["step"], line["exact"]) == line["exact"], f"step {line['step']} differs"
    assert sorted(found) == list(range(1, STEPS + 1))
    return [found[step] for step in sorted(found)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    Run.cache = str(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of two processes, with the model exported at its end."""
    folder = tmp_path_factory.mktemp("two")
    Run(folder, "--mesh", "fsdp=2,tensor=2", "--save-every", "5", "--export", count=2).finish()
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Losses of one process on a mesh of two devices."""
    folder = tmp_path_factory.mktemp("undisturbed")
    Run(folder, "--mesh", "fsdp=1,tensor=2").finish()
    return losses(folder)


def test_killed_at_any_moment(undisturbed: list[str], tmp_path: Path) -> None:
    """SIGKILL while a checkpoint is written, then at random moments; the losses are the same to the last bit."""
    options = ("--mesh", "fsdp=1,tensor=2", "--save-every", "1", "--pause", "0.1")
    run = Run(tmp_path, *options)
    run.until(lambda: len(lines(tmp_path)) >= 3 and any(tmp_path.glob("checkpoint-*-tmp*")))
    run.end()
    draw = random.Random()
    for _ in range(2):
        at = len(lines(tmp_path)) + draw.randint(1, 2)
        run = Run(tmp_path, *options)
        run.until(lambda: len(lines(tmp_path)) >= at)
        time.sleep(draw.uniform(0, 0.2))
        run.end()
    Run(tmp_path, *options).finish()
    assert losses(tmp_path) == undisturbed
    assert [path.name for path in tmp_path.glob("checkpoint-*")] and not list(tmp_path.glob("*tmp*"))


def test_told_to_end(undisturbed: list[str], tmp_path: Path) -> None:
    """SIGTERM: the step is finished and saved, the status says that it is not the end; nothing is done twice."""
    run = Run(tmp_path, "--mesh", "fsdp=1,tensor=2", "--save-every", "100", "--pause", "0.2")
    run.until(lambda: len(lines(tmp_path)) >= 4)
    run.processes[0].send_signal(signal.SIGTERM)
    assert run.wait() == [EXIT_STATUS], run.said()
    done = len(lines(tmp_path))
    assert Checkpoints(tmp_path).steps() == [done] and done < STEPS
    Run(tmp_path, "--mesh", "fsdp=1,tensor=2").finish()
    assert losses(tmp_path) == undisturbed
    assert len(lines(tmp_path)) == STEPS


def values(exact: list[str]) -> list[float]:
    return [float.fromhex(value) for value in exact]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by one process with as many devices."""
    folder = tmp_path_factory.mktemp("one")
    Run(folder, "--mesh", "fsdp=2,tensor=2", "--save-every", "5", "--export", devices=4).finish()
    return folder


def test_two_processes_train_like_one(two: Path, one: Path) -> None:
    check_like_one(two, one)


def test_four_processes_train_like_one(one: Path, tmp_path: Path) -> None:
    Run(tmp_path, "--mesh", "fsdp=4,tensor=2", "--save-every", "5", "--export", count=4).finish()
    check_like_one(tmp_path, one)


def check_like_one(many: Path, one: Path) -> None:
    """FSDP x TENSOR over processes: the losses and the model of one process."""
    np.testing.assert_allclose(values(losses(many)), values(losses(one)), atol=1e-5, rtol=0)
    assert values(losses(many))[-1] < values(losses(many))[0] - 0.1, "something was learnt"
    check_restored_on_one(many, one)
    check_exported(many / "model", one / "model")


def check_restored_on_one(many: Path, one: Path) -> None:
    """What several processes wrote is read by this one, without a mesh."""
    train = make_train_step(small_run.loss, small_run.optimizer())
    like = train.init(small_run.model_of(), jax.random.key(1))
    state, extra = Checkpoints(many).restore(like)
    other, other_extra = Checkpoints(one).restore(like)
    assert int(state.step) == STEPS and extra == other_extra
    for a, b in zip(jax.tree.leaves(state.model), jax.tree.leaves(other.model), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def check_exported(many: Path, one: Path) -> None:
    """The folder for transformers: the same files with the same shapes, and the numbers of training."""
    assert sorted(path.name for path in many.iterdir()) == sorted(path.name for path in one.iterdir())
    assert len(list(many.glob("*.safetensors"))) > 1
    ids = np.arange(16)[None] + 3
    a, b = (jf.AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits for folder in (many, one))
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_one_of_two_processes_dies(two: Path, tmp_path: Path) -> None:
    """The other ends too; started again as a scheduler would, the job ends with the losses of an undisturbed one."""
    options = ("--mesh", "fsdp=2,tensor=2", "--save-every", "2", "--pause", "0.1")
    folder = tmp_path / "killed"
    run = Run(folder, *options, count=2)
    # Saving goes on beside the steps, so the fourth's checkpoint may come long after its loss.
    run.until(lambda: len(lines(folder)) >= 5 and len(Checkpoints(folder).steps()) >= 2)
    run.processes[1].kill()
    assert all(status != 0 for status in run.wait()), "the survivor noticed"
    # What one process wrote of the newest checkpoint is damaged: both must skip it.
    *_, older, newest = Checkpoints(folder).steps()
    for part in (folder / f"checkpoint-{newest}" / "state").glob("ocdbt.process_1/d/*"):
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    Run(folder, *options, count=2).finish()
    assert f"checkpoint-{newest} is damaged and is skipped" in (folder / "log-0.txt").read_text()
    assert older + 1 in [line["step"] for line in lines(folder)[-(STEPS - older) :]]
    assert losses(folder) == losses(two)


def test_one_of_two_processes_is_told_to_end(tmp_path: Path) -> None:
    """Both save the same step and end."""
    options = ("--mesh", "fsdp=2,tensor=2", "--save-every", "100", "--pause", "0.3")
    run = Run(tmp_path, *options, count=2)
    run.until(lambda: len(lines(tmp_path)) >= 3)
    run.processes[1].send_signal(signal.SIGTERM)
    assert run.wait() == [EXIT_STATUS] * 2, run.said()
    assert Checkpoints(tmp_path).steps() == [len(lines(tmp_path))]
