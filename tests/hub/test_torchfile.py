"""PyTorch files: parity with torch.load in both formats, and pickles that ask for more than tensors."""

import io
import pickle
import re
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from jaxformers.core.errors import CheckpointError, UnsafePickleError
from jaxformers.hub import torchfile

FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
DTYPES = ("float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()) + (
    "uint16 uint32 uint64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz".split()
)


def save(path, value, new=True):
    torch.save(value, path, _use_new_zipfile_serialization=new)
    return path


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].shape == tuple(tensor.shape), name
        assert str(ours[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert ours[name].tobytes() == raw(tensor), name


@FORMATS
def test_every_dtype(tmp_path, new):
    made = {name: torch.randint(0, 2, (3, 4)).to(getattr(torch, name)) for name in DTYPES}
    path = save(tmp_path / "a.bin", made, new)
    # torch itself cannot load what it wrote of the newer dtypes in the old format
    assert_same(torchfile.read(path), torch.load(path) if new else made)


@FORMATS
def test_views_scalars_and_shared_storages(tmp_path, new):
    base = torch.arange(24.0).reshape(4, 6)
    made = {"base": base, "t": base.T, "row": base[2], "step": base[::2, 1::3], "wide": torch.tensor([3]).expand(2, 5)}
    made |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "last": base[3:, 5:], "none": base[4:]}
    path = save(tmp_path / "a.bin", made, new)
    ours = torchfile.read(path)
    assert_same(ours, torch.load(path))
    assert np.shares_memory(ours["base"], ours["t"]) and not ours["base"].flags.writeable


@FORMATS
def test_modules_and_parameters(tmp_path, new):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    path = save(tmp_path / "a.bin", module.state_dict(), new)
    assert_same(torchfile.read(path), torch.load(path))
    marked = torch.nn.Parameter(torch.ones(2))
    marked.note = "python attributes make torch wrap the tensor once more"
    path = save(tmp_path / "b.bin", OrderedDict(w=module[0].weight, m=marked), new)
    assert_same(torchfile.read(path), {"w": module[0].weight, "m": marked})


@FORMATS
@pytest.mark.parametrize("key", torchfile.WRAPPERS)
def test_wrapped_state_dicts_and_other_entries(tmp_path, new, key):
    made = {"a": torch.ones(2), "count": 3, "name": "x", "shape": torch.Size([2, 3]), "list": [1, {"b": (2.5, None)}]}
    path = save(tmp_path / "a.pt", {key: made, "epoch": torch.tensor(3), "args": {"lr": 0.1}, 5: b"raw"}, new)
    assert_same(torchfile.read(path), {"a": made["a"]})


@pytest.mark.parametrize(
    "value",
    [{"model": {"a": torch.ones(1)}, "module": {"b": torch.ones(1)}}, {"a": 1}, {}, torch.ones(2), [torch.ones(2)]],
    ids=["two", "no tensor", "empty", "tensor", "list"],
)
def test_unclear_contents_are_refused(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"state.dict"):
        torchfile.read(save(tmp_path / "a.pt", value))


@FORMATS
def test_quantised_and_sparse_tensors_are_refused_by_name(tmp_path, new):
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    for value, name in ((quantised, "_rebuild_qtensor"), (torch.eye(2).to_sparse(), "_rebuild_sparse_tensor")):
        with pytest.raises(CheckpointError, match=name):
            torchfile.read(save(tmp_path / "a.pt", {"a": value}, new))


def test_modules_pickled_whole_are_refused_by_name(tmp_path):
    with pytest.raises(UnsafePickleError, match=r"torch\.nn\.modules\.linear\.Linear"):
        torchfile.read(save(tmp_path / "a.pt", torch.nn.Linear(2, 2)))
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        torchfile.read(tmp_path / "b.pt")


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    """Write a zip again with `change(name, bytes)` in place of each entry."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, change(name, data))
    return path


def test_zip_files_that_cannot_be_mapped(tmp_path):
    path = save(tmp_path / "a.pt", {"a": torch.ones(500)})
    rewrite(path, lambda name, data: data)
    assert torchfile.read(path)["a"].sum() == 500
    rewrite(path, lambda name, data: b"big" if name.endswith("byteorder") else data)
    with pytest.raises(CheckpointError, match="little-endian"):
        torchfile.read(path)
    rewrite(path, lambda name, data: data[:100] if name.endswith("data/0") else data.replace(b"big", b"little"))
    with pytest.raises(CheckpointError, match="storage '0' of 100 bytes; expected 2000"):
        torchfile.read(path)
    rewrite(save(path, {"a": torch.ones(500)}), lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        torchfile.read(path)


def test_damaged_files(tmp_path):
    path = save(tmp_path / "a.pt", {"a": torch.ones(500)}, new=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="expected"):
        torchfile.read(path)
    path.write_bytes(re.sub(b"(little_endian\x71.)\x88", b"\\1\x89", whole))
    with pytest.raises(CheckpointError, match="big-endian"):
        torchfile.read(path)
    for data in (b"", b"not a checkpoint", b"PK\x03\x04", pickle.dumps({"a": 1})):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="expected"):
            torchfile.read(path)


class Call:
    """An object whose pickle calls something."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(canary) -> dict[str, bytes]:
    """Pickles that would create the canary file, or reach an object's insides, in a trusting unpickler."""
    import builtins
    import os
    import subprocess

    text = f"open({str(canary)!r}, 'w').close()"
    touch = f"touch {canary}"
    made = {
        "os.system": pickle.dumps({"a": Call(os.system, touch)}, 2),
        "eval": pickle.dumps(Call(builtins.eval, text), 4),
        "exec": pickle.dumps([Call(builtins.exec, text)], 0),
        "subprocess": pickle.dumps(Call(subprocess.check_output, ["touch", str(canary)]), 3),
        "getattr": pickle.dumps({"a": Call(getattr, Call(__import__, "os"), "system")}, 5),
        "open": pickle.dumps(Call(open, str(canary), "w"), 2),
        "nested": pickle.dumps({"a": [{"b": (Call(os.system, touch),)}]}, 4),
    }
    opened = b"(S" + repr(text).encode() + b"\n"
    made["inst"] = b"(S" + repr(touch).encode() + b"\nios\nsystem\n."
    made["obj"] = b"(c__builtin__\neval\nS" + repr(text).encode() + b"\no."
    made["newobj"] = b"\x80\x02cbuiltins\nexec\n" + opened + b"t\x81."
    made["stack global"] = (
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c" + bytes([len(text)]) + text.encode() + b"\x85R."
    )
    made["dotted"] = b"\x80\x04\x8c\x05torch\x8c\x11serialization.os.\x93."
    made["extension"] = b"\x80\x02\x82\x01."
    made["build function"] = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__Nsb."
    made["build state"] = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__code__Ns\x86b."
    made["reduce string"] = b"\x80\x02X\x04\x00\x00\x00evil)R."
    made["reduce dtype"] = b"\x80\x02ctorch\nfloat16\n)R."
    made["reduce type"] = b"\x80\x02ctorch\nTensor\n)R."
    made["from type"] = b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n)tR."
    made["load from bytes"] = b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x01a\x85R."
    return made


@FORMATS
@pytest.mark.parametrize("name", list(attacks("x")))
def test_no_pickle_runs_code(tmp_path, name, new):
    canary = tmp_path / "canary"
    payload = attacks(canary)[name]
    path = save(tmp_path / "a.pt", {"a": torch.ones(3)}, new)
    if new:
        rewrite(path, lambda entry, data: payload if entry.endswith("data.pkl") else data)
    else:
        whole = path.read_bytes()
        start = sum(len(pickle.dumps(part, 2)) for part in (torchfile.MAGIC, torchfile.PROTOCOL))
        assert pickle.loads(whole[len(pickle.dumps(torchfile.MAGIC, 2)) : start]) == torchfile.PROTOCOL
        path.write_bytes(whole[:start] + payload + whole[start:])
    with pytest.raises(UnsafePickleError):
        torchfile.read(path)
    assert not canary.exists()


def test_refused_globals_are_named(tmp_path):
    path = rewrite(
        save(tmp_path / "a.pt", {"a": torch.ones(3)}),
        lambda entry, data: attacks("x")["os.system"] if entry.endswith("data.pkl") else data,
    )
    with pytest.raises(UnsafePickleError, match=r"asks for posix\.system, which is no part of a tensor"):
        torchfile.read(path)


LIES = {
    "outside the storage": ((2, 4), (4, 1), 0),
    "offset outside": ((2,), (1,), 5),
    "huge stride": ((2,), (1 << 62,), 0),
    "huge shape": ((1 << 62, 4), (1, 1), 0),
    "negative stride": ((2,), (-1,), 4),
    "unlike lengths": ((2, 3), (1,), 0),
    "overflowing stride of nothing": ((0, 2), (1 << 80, 1), 0),
}


@pytest.mark.parametrize("name", LIES)
def test_tensors_stay_inside_their_storage(tmp_path, name):
    (shape, strides, offset), place = LIES[name], object()
    path = save(tmp_path / "a.pt", {"a": torch.ones(6)})

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return ("storage", torch.FloatStorage, "0", "cpu", 6) if item is place else None

    class Lie:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (place, offset, shape, strides, False, OrderedDict())

    Pickler(stream := io.BytesIO(), 2).dump({"a": Lie()})
    rewrite(path, lambda entry, data: stream.getvalue() if entry.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match=r"a\.pt: "):
        torchfile.read(path)


def test_legacy_storage_counts_are_checked(tmp_path):
    path = save(tmp_path / "a.pt", {"a": torch.ones(6)}, new=False)
    whole = path.read_bytes()
    assert whole[-32:-24] == struct.pack("<q", 6)
    path.write_bytes(whole[:-32] + struct.pack("<q", 5) + whole[-24:])
    with pytest.raises(CheckpointError, match="of another size; expected 6"):
        torchfile.read(path)
