"""Safetensors files: parity with the safetensors package, every way a header can lie, and streaming writes."""

import json
import mmap
import tracemalloc

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from jaxformers.core.errors import CheckpointError
from jaxformers.hub import safetensors as st
from jaxformers.hub.mapped import DTYPES


def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    made = {code: random.integers(0, 2, (3, 5)).astype(DTYPES[name]) for code, name in st.CODES.items()}
    return made | {
        "scalar": np.float32(3.5).reshape(()),
        "empty": np.zeros((0, 4), np.float16),
        "odd": np.ones(3, bool),
    }


def raw_file(path, header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_every_dtype_round_trips(tmp_path):
    made = tensors()
    st.write(tmp_path / "a.safetensors", made)
    read = st.read(tmp_path / "a.safetensors")
    assert set(read) == set(made)
    assert all(same(read[name], made[name]) for name in made)
    assert st.read_metadata(tmp_path / "a.safetensors") == {"format": "pt"}


def test_the_safetensors_package_and_torch_read_what_we_write(tmp_path):
    made = tensors()
    st.write(tmp_path / "a.safetensors", made.items())
    theirs = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert set(theirs) == set(made)
    for name, array in made.items():
        assert theirs[name].contiguous().flatten().view(torch.uint8).numpy().tobytes() == array.tobytes(), name


def test_we_read_what_torch_writes(tmp_path):
    theirs = {
        "a": torch.randn(4, 3, dtype=torch.bfloat16),
        "b": torch.arange(7),
        "c": torch.tensor(2.0),
        "d": torch.zeros(0),
    }
    theirs["f8"] = torch.randn(5).to(torch.float8_e5m2)
    safetensors.torch.save_file(theirs, tmp_path / "a.safetensors", {"format": "pt"})
    ours = st.read(tmp_path / "a.safetensors")
    assert ours["a"].dtype == ml_dtypes.bfloat16
    for name, tensor in theirs.items():
        assert ours[name].shape == tuple(tensor.shape)
        assert ours[name].tobytes() == tensor.flatten().view(torch.uint8).numpy().tobytes()


def test_views_are_read_only_and_of_the_file(tmp_path):
    st.write(tmp_path / "a.safetensors", {"a": np.arange(6.0)})
    array = st.read(tmp_path / "a.safetensors")["a"]
    assert not array.flags.writeable and not array.flags.owndata
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


def test_offsets_need_not_be_aligned(tmp_path):
    header = {"a": entry("U8", (3,), (0, 3)), "b": entry("F32", (2,), (3, 11)), "c": entry("BF16", (2,), (11, 15))}
    half = np.array([1.5, -2], ml_dtypes.bfloat16)
    path = raw_file(tmp_path / "a.safetensors", header, b"abc" + np.array([1, 2], "f4").tobytes() + half.tobytes())
    read = st.read(path)
    assert read["b"].tolist() == [1, 2] and read["c"].astype("f4").tolist() == [1.5, -2]
    assert np.ascontiguousarray(read["b"][1:]) == [2]


BAD = {
    "empty file": b"",
    "short file": b"abc",
    "header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "huge header": (1 << 40).to_bytes(8, "little") + b"{}",
    "header is not JSON": {"text": b"{nonsense}"},
    "header is a list": {"text": b"[]"},
    "header is not text": {"text": b"{\xff\xfe}"},
    "deep header": {"text": b'{"a":' * 20000},
    "duplicate keys": {"text": b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}'},
    "metadata is not text": {"header": {"__metadata__": {"a": 1}}},
    "entry is not an object": {"header": {"a": 3}},
    "no shape": {"header": {"a": {"dtype": "F32", "data_offsets": [0, 8]}}},
    "unknown dtype": {"header": {"a": entry("F3")}},
    "packed dtype": {"header": {"a": entry("F4")}},
    "dtype is a list": {"header": {"a": entry([])}},
    "negative shape": {"header": {"a": entry(shape=[-2])}},
    "shape with text": {"header": {"a": entry(shape=["2"])}},
    "shape with true": {"header": {"a": entry(shape=[True, 2])}},
    "shape of 65 axes": {"header": {"a": entry(shape=[1] * 64 + [2])}},
    "shape beyond numpy": {"header": {"a": entry(shape=[0, 1 << 70], offsets=[0, 0])}},
    "negative offsets": {"header": {"a": entry(offsets=[-8, 0])}},
    "offsets reversed": {"header": {"a": entry(offsets=[8, 0])}},
    "offsets outside": {"header": {"a": entry(offsets=[0, 800], shape=[200])}},
    "three offsets": {"header": {"a": entry(offsets=[0, 4, 8])}},
    "bytes do not fit shape": {"header": {"a": entry(shape=[3])}},
    "hole": {"header": {"a": entry("U8", [2], [0, 2]), "b": entry("U8", [4], [4, 8])}},
    "overlap": {"header": {"a": entry("U8", [5], [0, 5]), "b": entry("U8", [4], [4, 8])}},
    "data nobody names": {"header": {"a": entry("U8", [2], [0, 2])}},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_error(tmp_path, name):
    path, case = tmp_path / "bad.safetensors", BAD[name]
    if isinstance(case, bytes):
        path.write_bytes(case)
    else:
        raw_file(path, case.get("text") or case["header"], bytes(8))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: .*; expected .*\.") as error:
        st.read(path)
    assert len(str(error.value)) < 700


def test_a_truncated_file_says_so(tmp_path):
    path = tmp_path / "a.safetensors"
    st.write(path, {"a": np.ones(100)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="inside 0:799"):
        st.read(path)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        st.read(tmp_path / "none.safetensors")


def test_header_and_tensors_are_aligned(tmp_path):
    made = {"a": np.ones(3, np.uint8), "b": np.ones(3, np.float64), "c": np.ones(3, np.float16)}
    st.write(tmp_path / "a.safetensors", made)
    assert int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little") % 8 == 0
    assert all(array.flags.aligned for array in st.read(tmp_path / "a.safetensors").values())


def test_transposed_tensors_are_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(st, "BLOCK", 64)
    made = {"t": np.arange(300.0).reshape(3, 100).T, "c": np.arange(1000), "s": np.arange(24).reshape(2, 3, 4)[:, ::-1]}
    told = []
    total = st.write(tmp_path / "a.safetensors", made, progress=told.append)
    assert sum(told) == total == sum(array.nbytes for array in made.values())
    assert max(told) <= 64
    assert all(same(st.read(tmp_path / "a.safetensors")[name], made[name]) for name in made)


def test_lazy_entries_are_held_one_at_a_time(tmp_path):
    size = 4 << 20

    def lazy(value):
        return st.Entry((size,), np.dtype(np.uint8), lambda: np.full(size, value, np.uint8))

    tracemalloc.start()
    st.write(tmp_path / "a.safetensors", {str(i): lazy(i) for i in range(8)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * size
    assert st.read(tmp_path / "a.safetensors")["5"][-1] == 5


def test_a_failed_write_leaves_no_file(tmp_path):
    wrong = st.Entry((2,), np.dtype(np.float32), lambda: np.ones(3, np.float32))
    with pytest.raises(CheckpointError, match=r"'b' turned out as float32 \(3,\)"):
        st.write(tmp_path / "a.safetensors", {"a": np.ones(2), "b": wrong})
    with pytest.raises(CheckpointError, match="comes twice"):
        st.write(tmp_path / "a.safetensors", [("a", np.ones(2)), ("a", np.ones(2))])
    with pytest.raises(CheckpointError, match="dtype <U1"):
        st.write(tmp_path / "a.safetensors", {"a": np.array(["x"])})
    assert not list(tmp_path.iterdir())


def test_sharded_writing_follows_transformers(tmp_path):
    made = {f"layer.{i}": np.full((10, 10), i, np.float32) for i in range(5)}
    files = st.write_sharded(tmp_path, made, shard_size=1000)
    assert [file.name for file in files] == [
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        files[-1].name,
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 500, "total_size": 2000}
    assert index["weight_map"]["layer.2"] == "model-00002-of-00003.safetensors"
    for name, file in index["weight_map"].items():
        assert same(st.read(tmp_path / file)[name], made[name])


def test_shards_are_cut_where_transformers_cuts_them(tmp_path):
    sizes = np.random.default_rng(0).integers(1, 60, 40).tolist()
    made = {f"t{i}": torch.zeros(size) for i, size in enumerate(sizes)}
    theirs = huggingface_hub.split_torch_state_dict_into_shards(made, max_shard_size=150)
    st.write_sharded(tmp_path, {name: tensor.numpy() for name, tensor in made.items()}, shard_size=150)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == theirs.tensor_to_filename
    assert index["metadata"]["total_size"] == theirs.metadata["total_size"]


def test_one_shard_needs_no_index(tmp_path):
    assert st.write_sharded(tmp_path, {"a": np.ones(9)}, stem="adapter_model") == [
        tmp_path / "adapter_model.safetensors"
    ]
    assert [item.name for item in tmp_path.iterdir()] == ["adapter_model.safetensors"]


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 << 19), ("200kb", 200_000), (77, 77)])
def test_sizes(text, size):
    assert st.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "big", "-5GB", "5 tons"])
def test_no_sizes(text):
    with pytest.raises(CheckpointError, match="is not a size"):
        st.parse_size(text)
