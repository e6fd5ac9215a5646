"""Staged saves: an error, a full disk or a kill in the middle leaves the old folder as it was."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxformers.hub import atomic
from jaxformers.hub import safetensors as st
from jaxformers.hub.atomic import staged_folder


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        place = folder / name.replace("__", "/").replace("_", ".")
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)


def contents(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def siblings(folder) -> list[str]:
    return sorted(item.name for item in folder.parent.iterdir())


@pytest.fixture(params=["exchange", "two renames", "file by file"])
def way(request, monkeypatch):
    """Every way a folder can be replaced."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    if request.param == "file by file":
        monkeypatch.setattr(atomic, "replaceable", lambda target: False)
    return request.param


def test_a_new_folder(tmp_path, way):
    target = tmp_path / "deep" / "model"
    with staged_folder(target) as staged:
        fill(staged, config_json="new", sub__a_txt="a")
        assert not target.exists()
    assert contents(target) == {"config.json": "new", "sub/a.txt": "a"}
    assert siblings(target) == ["model"]


def test_old_files_are_kept_and_stale_weights_removed(tmp_path, way):
    target = tmp_path / "model"
    fill(target, config_json="old", README_md="mine", runs__log_txt="log", optimizer_bin="state")
    for name in (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ):
        (target / name).write_text("stale")
    (target / "adapter_model.safetensors").write_text("other")
    (target / "pytorch_model.bin").write_text("other format")
    (target / "link").symlink_to("README.md")
    with staged_folder(target) as staged:
        fill(staged, config_json="new", model_safetensors="weights")
    assert contents(target) == {
        "config.json": "new",
        "model.safetensors": "weights",
        "README.md": "mine",
        "link": "mine",
        "runs/log.txt": "log",
        "optimizer.bin": "state",
        "adapter_model.safetensors": "other",
        "pytorch_model.bin": "other format",
    }
    assert (target / "link").is_symlink()
    assert siblings(target) == ["model"]


def test_weights_stay_when_only_a_config_is_saved(tmp_path, way):
    target = tmp_path / "model"
    fill(target, model_safetensors="weights")
    with staged_folder(target) as staged:
        fill(staged, config_json="new")
    assert contents(target) == {"config.json": "new", "model.safetensors": "weights"}


def test_an_error_in_the_middle(tmp_path, way):
    target = tmp_path / "model"
    fill(target, config_json="old")
    with pytest.raises(RuntimeError), staged_folder(target) as staged:
        fill(staged, config_json="new")
        raise RuntimeError
    assert contents(target) == {"config.json": "old"}
    assert siblings(target) == ["model"]


@pytest.mark.parametrize("step", ["flush_file", "link", "swap"])
def test_a_full_disk(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "model"
    fill(target, config_json="old", README_md="mine")
    monkeypatch.setattr(atomic, step, full)
    with pytest.raises(OSError, match="No space left"), staged_folder(target) as staged:
        fill(staged, config_json="new")
    assert contents(target) == {"config.json": "old", "README.md": "mine"}
    assert siblings(target) == ["model"]


def test_a_disk_that_fills_up_while_a_tensor_is_written(tmp_path):
    target = tmp_path / "model"
    fill(target, config_json="old")

    class Full:
        shape, dtype = (4,), np.dtype(np.float32)

        def materialise(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), staged_folder(target) as staged:
        st.write(staged / "model.safetensors", {"a": np.ones((4, 4)), "b": Full()})
    assert contents(target) == {"config.json": "old"}


def test_a_swap_that_fails_halfway_is_undone(tmp_path, monkeypatch):
    target = tmp_path / "model"
    fill(target, config_json="old")
    monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    rename, calls = type(target).rename, []

    def second_fails(self, to):
        calls.append(to)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(type(target), "rename", second_fails)
    with pytest.raises(OSError, match="No space left"), staged_folder(target) as staged:
        fill(staged, config_json="new")
    assert contents(target) == {"config.json": "old"}
    assert siblings(target) == ["model"]


def test_files_that_appear_during_the_swap_are_kept(tmp_path, way, monkeypatch):
    target = tmp_path / "model"
    fill(target, config_json="old", model_safetensors="old")
    flush = atomic.flush

    def late(folder):
        flush(folder)
        fill(target, log_txt="late")

    monkeypatch.setattr(atomic, "flush", late)
    with staged_folder(target) as staged:
        fill(staged, config_json="new", model_safetensors="new")
    assert contents(target) == {"config.json": "new", "model.safetensors": "new", "log.txt": "late"}
    assert siblings(target) == ["model"]


def test_permissions_are_kept(tmp_path, way):
    target = tmp_path / "model"
    fill(target, config_json="old")
    target.chmod(0o2750)
    with staged_folder(target) as staged:
        fill(staged, config_json="new")
    assert target.stat().st_mode & 0o7777 == 0o2750


KILLED = """
import os, signal, sys
from jaxformers.hub import atomic

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

target, step = sys.argv[1:]
if step == "between renames":
    atomic.exchange = lambda first, second: False
    rename = atomic.Path.rename
    atomic.Path.rename = lambda self, to: die() if os.path.realpath(target) == str(to) else rename(self, to)
elif step != "write":
    setattr(atomic, step, die)
with atomic.staged_folder(target) as staged:
    (staged / "config.json").write_text("half")
    if step == "write":
        die()
"""


@pytest.mark.parametrize("step", ["write", "keep_old", "flush_file", "swap", "between renames"])
def test_a_kill_in_the_middle(tmp_path, step):
    target = tmp_path / "model"
    fill(target, config_json="old", README_md="mine")
    done = subprocess.run([sys.executable, "-c", KILLED, target, step], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if step != "between renames":
        assert contents(target) == {"config.json": "old", "README.md": "mine"}
    assert len(siblings(target)) > 1
    with staged_folder(target) as staged:
        fill(staged, config_json="new")
    assert contents(target) == {"config.json": "new", "README.md": "mine"}
    assert siblings(target) == ["model"]


def test_a_living_save_is_not_cleaned_away(tmp_path):
    target = tmp_path / "model"
    with staged_folder(target) as first:
        fill(first, a_txt="1")
        with staged_folder(target) as second:
            fill(second, b_txt="2")
        assert first.is_dir()
    assert contents(target) == {"a.txt": "1", "b.txt": "2"}


def test_saving_into_the_working_directory_keeps_it(tmp_path, monkeypatch):
    fill(tmp_path / "model", config_json="old", model_safetensors="old")
    monkeypatch.chdir(tmp_path / "model")
    with staged_folder(".") as staged:
        fill(staged, config_json="new")
        (staged / "model-00001-of-00001.safetensors").write_text("new")
    assert sorted(os.listdir(".")) == ["config.json", "model-00001-of-00001.safetensors"]
    assert (tmp_path / "model" / "config.json").read_text() == "new"


def test_a_symlinked_folder_stays_one(tmp_path):
    fill(tmp_path / "real", config_json="old")
    (tmp_path / "link").symlink_to("real")
    with staged_folder(tmp_path / "link") as staged:
        fill(staged, config_json="new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {"config.json": "new"}


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(NotADirectoryError, match="saving needs a folder"), staged_folder(tmp_path / "model"):
        pass
    assert siblings(tmp_path / "model") == ["model"]


def test_a_checkpoint_can_be_saved_over_itself(tmp_path):
    """Its mapped views stay valid, as the old files live on until the last map is gone."""
    st.write(tmp_path / "model.safetensors", {"a": np.arange(1000.0)})
    folder = tmp_path / "copy"
    for _ in range(2):
        read = st.read((folder if folder.exists() else tmp_path) / "model.safetensors")
        with staged_folder(folder) as staged:
            st.write(staged / "model.safetensors", read)
        assert read["a"].sum() == st.read(folder / "model.safetensors")["a"].sum() == 499500
