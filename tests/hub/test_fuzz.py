"""Damaged and hostile files: every reader gives one kind of error or the right tensors, and never runs anything."""

import io
import json
import zipfile
from pathlib import Path

import flax.serialization
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from jaxformers.core.errors import CheckpointError
from jaxformers.hub import safetensors as st
from jaxformers.hub.checkpoint import READERS
from jaxformers.hub.mapped import DTYPES

random = np.random.default_rng(0)
MADE = {
    "a.weight": random.standard_normal((4, 3)).astype(np.float32),
    "b.bias": random.integers(-9, 9, 5),
    "c.mask": random.integers(0, 255, (2, 2, 6)).astype(np.uint8),
}
bounded = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def build(folder: Path) -> dict[str, bytes]:
    """One valid file of each format, all with the same tensors."""
    st.write(folder / "a.safetensors", MADE)
    tensors = {name: torch.from_numpy(array) for name, array in MADE.items()}
    torch.save(tensors, folder / "zip.pt")
    torch.save(tensors, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    tree = {"a": {"kernel": MADE["a.weight"].T}, "b": {"bias": MADE["b.bias"]}, "c": {"mask": MADE["c.mask"]}}
    (folder / "a.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    return build(tmp_path_factory.mktemp("valid"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def stored(name: str, kind: str) -> np.ndarray:
    """The tensor in the order of axes in which a format stores it."""
    return MADE[name].T if kind == "a.msgpack" and name == "a.weight" else MADE[name]


def read(folder: Path, kind: str, data: bytes) -> dict[str, np.ndarray] | None:
    """What the reader makes of the bytes, copied out of the map; None for its own error."""
    path = folder / kind
    path.unlink(missing_ok=True)  # never shorten a file that may still be mapped
    path.write_bytes(data)
    try:
        found = READERS[path.suffix](path)
        assert all(array.dtype in DTYPES.values() for array in found.values())
        # A damaged shape with stride 0 may be huge though it reads few bytes: copy a corner only.
        return {
            name: array[tuple(slice(64 if i < 3 else 1) for i in range(array.ndim))].copy()
            for name, array in found.items()
        }
    except CheckpointError as error:
        assert kind in str(error) and len(str(error)) < 2000
        return None


def data_spans(kind: str, whole: bytes) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes lie, found by searching for them."""
    spans = {}
    for name in MADE:
        data = np.ascontiguousarray(stored(name, kind)).tobytes()
        assert whole.count(data) == 1
        spans[name] = (whole.index(data), whole.index(data) + len(data))
    return spans


def check(folder: Path, kind: str, whole: bytes, changed: bytes) -> None:
    """Bytes changed in tensors alone change those tensors alone; anything else is an error or readable."""
    got = read(folder, kind, changed)
    spans = data_spans(kind, whole)
    inside = {at for start, end in spans.values() for at in range(start, end)}
    pairs = enumerate(zip(whole, changed, strict=False))
    if len(whole) != len(changed) or any(a != b and at not in inside for at, (a, b) in pairs):
        return
    assert got is not None and set(got) == set(MADE)
    for name, (start, end) in spans.items():
        like = stored(name, kind)
        expected = np.frombuffer(changed[start:end], like.dtype).reshape(like.shape)
        expected = expected.T if like is not MADE[name] else expected
        assert got[name].dtype == expected.dtype and got[name].tobytes() == expected.tobytes()


@some.composite
def damage(draw, size: int = 4096):
    """A function from bytes to damaged bytes: flips, cuts, insertions and overwriting, a few of them."""
    steps = draw(
        some.lists(
            some.tuples(
                some.sampled_from(["flip", "flip", "set", "cut", "insert", "remove"]),
                some.integers(0, size),
                some.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def apply(data: bytes) -> bytes:
        out = bytearray(data)
        for what, at, extra in steps:
            at %= len(out) or 1
            if what == "flip" and out:
                out[at] ^= extra[0]
            elif what == "set":
                out[at : at + len(extra)] = extra[: len(out) - at]
            elif what == "cut":
                del out[at:]
            elif what == "insert":
                out[at:at] = extra
            elif what == "remove":
                del out[at : at + len(extra)]
        return bytes(out)

    return apply


@pytest.mark.parametrize("kind", ["a.safetensors", "zip.pt", "legacy.pt", "a.msgpack"])
def test_valid_files_are_read_exactly(files, folder, kind):
    check(folder, kind, files[kind], files[kind])


@pytest.mark.parametrize("kind", ["a.safetensors", "zip.pt", "legacy.pt", "a.msgpack"])
@bounded
@given(change=damage())
def test_damaged_bytes(files, folder, kind, change):
    check(folder, kind, files[kind], change(files[kind]))


JSON = some.recursive(
    some.none() | some.booleans() | some.integers(-(1 << 70), 1 << 70) | some.floats() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
SIZES = some.lists(some.integers(-1, 64) | some.sampled_from([1 << 31, 1 << 62, 1 << 64]), max_size=4)
FIELDS = {"dtype": some.sampled_from([*st.CODES, "F4", "f32"]), "shape": SIZES, "data_offsets": SIZES}


@bounded
@given(name=some.sampled_from(list(MADE)), field=some.sampled_from(list(FIELDS)), data=some.data())
def test_edited_safetensors_headers(files, folder, name, field, data):
    """A header that says something else about one tensor is refused, unless it describes the same bytes."""
    whole = files["a.safetensors"]
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    before, span = header[name][field], header[name]["data_offsets"]
    header[name][field] = value = data.draw(FIELDS[field] | JSON)
    text = json.dumps(header).encode()
    got = read(folder, "a.safetensors", len(text).to_bytes(8, "little") + text + whole[8 + size :])
    if got is None:
        assert value != before or type(value) is not type(before)
        return
    assert header[name]["data_offsets"] == span
    for other, array in MADE.items():
        assert got[other].tobytes() == array.tobytes()


def packed_zip(whole: bytes, pickle: bytes) -> bytes:
    """The zip file with another pickle inside."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle if name.endswith("data.pkl") else old.read(name))
    return out.getvalue()


def pickle_of(whole: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def fragments(canary: Path) -> list[bytes]:
    """Pieces of pickles, most of them hostile, to be put together in any order."""
    touch = f"touch {canary}".encode()
    python = f"open({str(canary)!r}, 'w')".encode()
    texts = [b"X" + len(text).to_bytes(4, "little") + text for text in (touch, python, b"os", b"__class__", b"a")]
    names = [
        b"cos\nsystem\n",
        b"cposix\nsystem\n",
        b"cbuiltins\neval\n",
        b"cbuiltins\ngetattr\n",
        b"csubprocess\ncall\n",
    ]
    names += [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"]
    names += [b"ctorch\nSize\n", b"ctorch\ndevice\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nTensor\n"]
    names += [b"\x8c\x02os\x8c\x06system\x93", b"\x8c\x08builtins\x8c\x04exec\x93", b"(S'touch'\nios\nsystem\n"]
    calls = [b"R", b"b", b"\x81", b"\x92", b"o", b"\x85R", b"\x86R", b"}b", b"(tR", b"Q", b"P0\n", b"\x82\x01"]
    plain = [b"(", b"t", b"]", b"}", b")", b"l", b"d", b"N", b"\x88", b"K\x03", b"\x85", b"\x86", b"\x87", b"s", b"u"]
    plain += [b"a", b"e", b"0", b"1", b"2", b"q\x00", b"h\x00", b"h\x01", b"\x94", b"X\x07\x00\x00\x00storage"]
    return [*texts, *names, *calls, *plain]


CANARY = Path("canary-of-the-fuzz-test")


@bounded
@given(parts=some.lists(some.sampled_from(fragments(CANARY)), max_size=12))
def test_hostile_pickles(files, folder, parts, monkeypatch):
    monkeypatch.chdir(folder)
    whole = files["zip.pt"]
    assert read(folder, "zip.pt", packed_zip(whole, b"\x80\x04" + b"".join(parts) + b".")) is None
    legacy = files["legacy.pt"]
    # Between the protocol number and the rest, where the description of the system is expected.
    assert read(folder, "legacy.pt", legacy[:21] + b"\x80\x04" + b"".join(parts) + b"." + legacy[21:]) is None
    assert not CANARY.exists()


@bounded
@given(part=some.sampled_from(fragments(CANARY)), at=some.integers(0, 4096), change=damage())
def test_hostile_parts_in_a_valid_pickle(files, folder, part, at, change, monkeypatch):
    monkeypatch.chdir(folder)
    pickle = pickle_of(files["zip.pt"])
    at %= len(pickle)
    for hostile in (pickle[:at] + part + pickle[at:], pickle[:at] + part + pickle[at + len(part) :], change(pickle)):
        got = read(folder, "zip.pt", packed_zip(files["zip.pt"], hostile))
        assert got is None or all(isinstance(array, np.ndarray) for array in got.values())
    assert not CANARY.exists()
