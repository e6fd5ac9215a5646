"""One mapping over any checkpoint: which files are chosen, indexes that lie, and memory that is handed back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import flax.serialization
import numpy as np
import pytest
import safetensors.torch
import torch

from jaxformers.core.errors import CheckpointError
from jaxformers.hub import safetensors as st
from jaxformers.hub.checkpoint import candidates, choose, files_of, open_checkpoint


def put(folder: Path, name: str, value: float = 1.0) -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        st.write(path, {"a": np.full(3, value, np.float32)})
    elif path.suffix == ".msgpack":
        path.write_bytes(flax.serialization.to_bytes({"a": np.full(3, value, np.float32)}))
    else:
        torch.save({"a": torch.full((3,), value)}, path)
    return path


def put_index(folder: Path, places: object, name: str = "model.safetensors.index.json") -> Path:
    (folder / name).write_text(json.dumps(places if isinstance(places, str) else {"weight_map": places}))
    return folder / name


def test_the_best_format_wins(tmp_path):
    order = ["model.pt", "flax_model.msgpack", "pytorch_model.bin", "model.safetensors"]
    for value, name in enumerate(order):
        put(tmp_path, name, value)
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint["a"][0] == value
        assert checkpoint.source("a") == name and checkpoint.files == [tmp_path / name]


def test_order_of_candidates():
    names = candidates()
    assert names[:2] == ["model.safetensors", "model.safetensors.index.json"]
    for i, name in enumerate(names):
        assert choose([*names[i:], "config.json"]) == name
    assert choose(["config.json", "adapter_model.safetensors"]) == "adapter_model.safetensors"


def test_variants(tmp_path):
    put(tmp_path, "model.safetensors", 1)
    put(tmp_path, "model.fp16.safetensors", 2)
    assert open_checkpoint(tmp_path)["a"][0] == 1
    assert open_checkpoint(str(tmp_path), variant="fp16")["a"][0] == 2
    with pytest.raises(CheckpointError, match=r"model\.int8\.safetensors"):
        open_checkpoint(tmp_path, variant="int8")
    names = [
        "model.safetensors.index.fp16.json",
        "model.fp16-00001-of-00001.safetensors",
        "model-00001-of-00001.safetensors",
    ]
    assert choose(names, "fp16") == names[0]
    assert files_of(names[0], names, "fp16") == names[:2]


def test_a_file_by_its_path(tmp_path):
    for name in ("x.safetensors", "x.bin", "x.pt", "x.pth", "x.msgpack"):
        assert open_checkpoint(put(tmp_path, name, 5))["a"].tolist() == [5, 5, 5]
    (tmp_path / "x.h5").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"suffix '\.h5'; expected one of \.safetensors"):
        open_checkpoint(tmp_path / "x.h5")
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")


def test_a_pointer_instead_of_weights(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="a Git LFS pointer; expected the weights themselves. Fetch them"):
        open_checkpoint(tmp_path)


def test_nothing_and_too_much(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no weights among config\.json.*Looked for model\.safetensors, "):
        open_checkpoint(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        put(tmp_path, name)
    with pytest.raises(CheckpointError, match=r"several weight files \(a\.safetensors, b\.safetensors\)"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_sharded(tmp_path, suffix):
    made = {f"t{i}": torch.randn(4, 4) for i in range(4)}
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {name: f"{stem}-0000{i // 2 + 1}-of-00002.{suffix}" for i, name in enumerate(made)}
    for file in set(places.values()):
        part = {name: tensor for name, tensor in made.items() if places[name] == file}
        (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(part, str(tmp_path / file))
    index = put_index(tmp_path, places, f"{stem}.{suffix}.index.json")
    for source in (tmp_path, index):
        checkpoint = open_checkpoint(source)
        assert len(checkpoint) == len(list(checkpoint)) == 4 and "t0" in checkpoint and "x" not in checkpoint
        assert all(np.array_equal(checkpoint[name], made[name]) for name in made)
        assert checkpoint.nbytes == 4 * 64 and len(checkpoint.files) == 2
        assert checkpoint.source("t3") == places["t3"]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"a": "gone.safetensors"}, r"1 of its files missing \(gone\.safetensors\)"),
        ({"a": "model-1.safetensors", "b": "model-1.safetensors"}, r"tensor 'b' that is not in model-1\.safetensors"),
        ({"a": "../model-1.safetensors"}, "inside the folder of the index"),
        ({"a": "/etc/passwd"}, "inside the folder of the index"),
        ({"a": "..\\x.safetensors"}, "inside the folder of the index"),
        ({"a": "sub/../../x.safetensors"}, "inside the folder of the index"),
        ({"a": "C:x.safetensors"}, "inside the folder of the index"),
        ({"a": "."}, "inside the folder of the index"),
        ({"a": "config.json"}, "suffix '.json'"),
        ({"a": 3}, "not text"),
        ({}, "empty"),
        ("no", "no readable index"),
    ],
)
def test_an_index_that_lies(tmp_path, places, message):
    put(tmp_path, "model-1.safetensors")
    (tmp_path / "config.json").write_text("{}")
    put_index(tmp_path, places)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_an_index_may_name_files_in_folders_below(tmp_path):
    (tmp_path / "weights").mkdir()
    put(tmp_path / "weights", "model-1.safetensors", 4)
    put_index(tmp_path, {"a": "weights/model-1.safetensors"})
    assert open_checkpoint(tmp_path)["a"][0] == 4


def test_an_index_that_is_not_json(tmp_path):
    for text in (b"{", b"[]", b"\xff", b"[" * 100000):
        (tmp_path / "model.safetensors.index.json").write_bytes(text)
        with pytest.raises(CheckpointError, match="no readable index"):
            open_checkpoint(tmp_path)


MEASURE = """
import sys
from jaxformers.hub.checkpoint import open_checkpoint

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssFile")) * 1024

before, peak, total = resident(), 0, 0.0
checkpoint = open_checkpoint(sys.argv[1])
for name in checkpoint:
    total += float(checkpoint[name].sum(dtype="float64"))
    peak = max(peak, resident() - before)
    if sys.argv[2] == "release":
        checkpoint.release(name)
assert total == 8 * (1 << 20), total
assert float(checkpoint["t0"].sum(dtype="float64")) == 1 << 20
assert "jax" not in sys.modules and "torch" not in sys.modules
print(peak)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="resident memory is read from /proc")
@pytest.mark.parametrize("suffix", ["safetensors", "bin", "msgpack"])
def test_released_tensors_leave_memory(tmp_path, suffix):
    made = {f"t{i}": np.ones((1024, 1024), np.float32) for i in range(8)}
    path = tmp_path / f"model.{suffix}"
    if suffix == "safetensors":
        st.write(path, made)
    elif suffix == "bin":
        torch.save({name: torch.from_numpy(array) for name, array in made.items()}, path)
    else:
        path.write_bytes(flax.serialization.to_bytes(made))

    def peak(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", MEASURE, path, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert peak("keep") > 28 << 20
    assert peak("release") < 12 << 20
