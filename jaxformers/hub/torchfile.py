"""PyTorch's `.bin`, `.pt` and `.pth` files without PyTorch: mapped tensors of the zip and of the old format."""

import io
import mmap
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, cast

import numpy as np

from jaxformers.core.errors import CheckpointError
from jaxformers.hub.mapped import DTYPES, MappedFile, TensorFile, broken, byte_count, sizes_ok
from jaxformers.hub.pickled import ADVICE, Safe, load

MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
PROTOCOL = 1001  # torch.serialization.PROTOCOL_VERSION
ZIP = b"PK\x03\x04"
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
STORAGES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Bool": "bool"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Untyped": "uint8"},
    **{"ComplexFloat": "complex64", "ComplexDouble": "complex128"},
}
ALIASES = dict(
    zip("half float double short int long".split(), "float16 float32 float64 int16 int32 int64".split(), strict=True)
)
REFUSED = {
    "torch._utils _rebuild_qtensor": "a quantised tensor",
    "torch._utils _rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils _rebuild_nested_tensor": "a nested tensor",
    "torch._utils _rebuild_meta_tensor_no_storage": "a meta tensor, which has no data",
    "torch._utils _rebuild_wrapper_subclass": "a tensor subclass",
    **{f"torch {kind}Storage": "a quantised tensor" for kind in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")},
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A dtype or storage class that a pickle names."""

    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements: its key in the file, and where a view of it begins (in elements)."""

    key: str
    dtype: np.dtype
    count: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A strided view of a storage, in elements of its dtype."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype


def rebuild(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None) -> Tensor:
    """What `_rebuild_tensor` and `_rebuild_tensor_v2` do. Raises ValueError if the arguments are not a tensor's."""
    return rebuild_typed(storage, offset, shape, strides, requires_grad, hooks, None, metadata)


def rebuild_typed(storage, offset, shape, strides, requires_grad=False, hooks=None, kind=None, metadata=None) -> Tensor:
    """What `_rebuild_tensor_v3` does: the storage is bytes, the dtype is named apart."""
    if not isinstance(storage, Storage) or not (kind is None or isinstance(kind, Kind)):
        raise ValueError("a tensor without a storage or a dtype")
    if not sizes_ok(shape) or not sizes_ok(strides) or len(shape) != len(strides) or not sizes_ok([offset]):
        raise ValueError("a shape, stride or offset that is not made of non-negative integers")
    if isinstance(metadata, dict) and any(metadata.values()):
        raise ValueError("a conjugated or negated view, which must be resolved before saving")
    return Tensor(storage, offset, tuple(shape), tuple(strides), kind.dtype if kind else storage.dtype)


def keep_first(tensor, *_) -> Tensor:
    """What `_rebuild_parameter` does, without autograd."""
    if not isinstance(tensor, Tensor):
        raise ValueError("a parameter that is not a tensor")
    return tensor


def rebuild_from_type(function, kind, arguments, state=None) -> Tensor:
    """What `_rebuild_from_type_v2` does for a plain tensor that carries Python attributes, which are dropped."""
    if not isinstance(function, Safe) or kind != "tensor class" or type(arguments) is not tuple:
        raise ValueError("a tensor subclass")
    return keep_first(function.call(*arguments))


def ordered(items=()) -> dict:
    """An OrderedDict as a plain dictionary, which keeps its order as well."""
    return dict(pair for pair in items if type(pair[0]) is str)


def latin1(text="", codec="latin1") -> bytes:
    """Bytes as protocol 2 spells them."""
    if not isinstance(text, str) or codec != "latin1":
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin-1")


def listed() -> Mapping[str, object]:
    """Every global a tensor file may name, and what stands for it."""
    names = {f"torch {name}": Kind(dtype) for name, dtype in DTYPES.items()}
    names |= {f"torch {alias}": Kind(DTYPES[name]) for alias, name in ALIASES.items()}
    for kind, name in STORAGES.items():
        names |= {f"{module} {kind}Storage": Kind(DTYPES[name]) for module in ("torch", "torch.cuda", "torch.storage")}
    names |= {f"torch._utils {name}": Safe(rebuild) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")}
    names |= {"torch._utils _rebuild_tensor_v3": Safe(rebuild_typed), "collections OrderedDict": Safe(ordered)}
    names |= {f"torch._utils _rebuild_parameter{end}": Safe(keep_first) for end in ("", "_with_state")}
    names |= {"torch._tensor _rebuild_from_type_v2": Safe(rebuild_from_type)}
    names |= {"torch Tensor": "tensor class", "torch.nn.parameter Parameter": "tensor class"}
    names |= {"torch Size": Safe(lambda sizes=(): tuple(sizes)), "torch device": Safe(lambda *_: None)}
    names |= {"_codecs encode": Safe(latin1)}
    return names | {name: CheckpointError(f"{what} ({name}) is not read. {ADVICE}") for name, what in REFUSED.items()}


ALLOWED = listed()
Places = Mapping[str, tuple[int, int]]  # storage key -> (first byte in the file, bytes)


def read(path: str | os.PathLike) -> TensorFile:
    """Map the state dict of a file. Raises UnsafePickleError for code in it, CheckpointError for damage."""
    file = MappedFile(path)
    start = file.raw[:32].tobytes()
    if not start.startswith(ZIP) and MAGIC.to_bytes(10, "little") not in start:
        raise broken(path, f"a file that begins with {start[:8]!r}", "torch.save's zip or legacy format")
    try:
        value, places = read_zip(file) if start.startswith(ZIP) else read_legacy(file)
        tensors = {name: view(file, name, tensor, places) for name, tensor in state_dict(file, value).items()}
    except CheckpointError:
        raise
    # zipfile and numpy raise many kinds of error for damaged archives; the caller needs one.
    except Exception as error:
        raise broken(path, f"a damaged archive ({type(error).__name__}: {str(error)[:100]})", "torch.save's") from error
    return TensorFile(file, tensors)


def storage_reader(found: Callable[[str, np.dtype, int], None]) -> Callable[[object], Storage]:
    """Turn persistent ids into storages, telling `found` each one's key, dtype and element count."""

    def persistent(identity: object) -> Storage:
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            raise ValueError("a persistent id that is not a storage")
        kind, key, _, count, *rest = identity[1:]
        if not isinstance(kind, Kind) or not isinstance(key, str) or not sizes_ok([count]):
            raise ValueError("a storage whose type, key or size is wrong")
        found(key, kind.dtype, count)
        view = rest[0] if rest and rest[0] is not None else (None, 0, count)
        if type(view) is not tuple or len(view) != 3 or not sizes_ok(view[1:]) or view[1] + view[2] > count:
            raise ValueError("a storage view outside its storage")
        return Storage(key, kind.dtype, view[2], view[1])

    return persistent


def read_zip(file: MappedFile) -> tuple[object, Places]:
    """The pickled object of a zip file and where its storages lie."""
    with zipfile.ZipFile(file.path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise broken(file.path, "an archive with two entries of one name", "each once")
    roots = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1 or f"{roots[0]}/constants.pkl" in entries:
        what = "a TorchScript archive" if roots else "a zip without data.pkl"
        raise broken(file.path, what, "a state dict written by torch.save", "Save model.state_dict() instead.")
    order = file.bytes(*locate(file, entries[f"{roots[0]}/byteorder"])) if f"{roots[0]}/byteorder" in entries else b""
    if order not in (b"", b"little"):
        raise broken(file.path, f"byte order {order[:20]!r}", "little", "Save it again on a little-endian machine.")
    places = {}

    def found(key: str, dtype: np.dtype, count: int) -> None:
        info = entries.get(f"{roots[0]}/data/{key}")
        if info is None or info.file_size < count * dtype.itemsize:
            problem = f"storage {key!r} of {info.file_size if info else 'no'} bytes"
            raise broken(file.path, problem, f"{count * dtype.itemsize} bytes")
        places[key] = locate(file, info)

    pickle = file.bytes(*locate(file, entries[f"{roots[0]}/data.pkl"]))
    return load(io.BytesIO(pickle), ALLOWED, storage_reader(found), file.path), places


def locate(file: MappedFile, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where an entry's bytes lie in the archive. Raises CheckpointError unless they are stored as they are."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise broken(file.path, f"compressed or encrypted entry {info.filename!r}", "stored entries", "Use torch.save.")
    header = file.bytes(info.header_offset, 30)
    if not header.startswith(ZIP):
        raise broken(file.path, f"no local header of entry {info.filename!r}", "one at the place the directory names")
    start = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if start + info.file_size > len(file):
        raise broken(file.path, f"entry {info.filename!r} beyond the end of the file", "a complete archive")
    return start, info.file_size


def read_legacy(file: MappedFile) -> tuple[object, Places]:
    """The pickled object of an old file and where its storages lie: five pickles, then counts and raw data."""
    known: dict[str, tuple[np.dtype, int]] = {}

    def found(key: str, dtype: np.dtype, count: int) -> None:
        if known.setdefault(key, (dtype, count)) != (dtype, count):
            raise ValueError(f"storage {key!r} with two types or sizes")

    with open(file.path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        persistent = storage_reader(found)
        magic, protocol, system, value, keys = (
            load(cast(IO[bytes], stream), ALLOWED, persistent, file.path) for _ in range(5)
        )
        at = stream.tell()
    if magic != MAGIC or protocol != PROTOCOL or type(system) is not dict or system.get("little_endian") is not True:
        advice = "Save it again on a little-endian machine."
        raise broken(file.path, "another protocol or a big-endian file", "protocol 1001, little-endian", advice)
    if type(keys) is not list or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(known):
        raise broken(file.path, "a list of storages that differs from those in use", "the same")
    places = {}
    for key in keys:
        dtype, count = known[key]
        if int.from_bytes(file.bytes(at, 8), "little") != count:
            raise broken(file.path, f"storage {key!r} of another size", f"{count} elements")
        places[key] = (at + 8, count * dtype.itemsize)
        at += 8 + count * dtype.itemsize
    if at > len(file):
        raise broken(file.path, f"a file of {len(file)} bytes", f"{at}")
    return value, places


def state_dict(file: MappedFile, value: object) -> dict[str, Tensor]:
    """The tensors of the pickled object, or of the one dictionary it wraps; everything else in it is ignored."""
    if type(value) is not dict:
        raise broken(file.path, "a pickle that is not a dictionary", "a state dict", "Save model.state_dict().")
    inner = [name for name in WRAPPERS if type(value.get(name)) is dict and has_tensors(value[name])]
    if len(inner) > 1 or not (inner or has_tensors(value)):
        found = f"tensors under {inner}" if inner else f"no tensor under {[str(key)[:40] for key in list(value)[:8]]}"
        raise broken(file.path, found, "one state dict", "Save model.state_dict() alone.")
    chosen = value[inner[0]] if inner else value
    tensors = {name: tensor for name, tensor in chosen.items() if isinstance(tensor, Tensor)}
    if not all(isinstance(name, str) for name in tensors):
        raise broken(file.path, "a tensor whose name is not text", "names as in a state dict")
    return tensors


def has_tensors(value: dict) -> bool:
    return any(isinstance(item, Tensor) for item in value.values())


def view(file: MappedFile, name: str, tensor: Tensor, places: Places) -> np.ndarray:
    """The mapped array of one tensor. Raises CheckpointError if it leaves its storage."""
    start, _ = places[tensor.storage.key]
    width, unit = tensor.dtype.itemsize, tensor.storage.dtype.itemsize
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True)) + 1
    end = tensor.offset + (last if byte_count(tensor.shape, tensor.dtype) else 0)
    if end * width > tensor.storage.count * unit:
        room = tensor.storage.count * unit // width
        raise broken(file.path, f"tensor {name!r} of {end} elements", f"at most its storage's {room}")
    strides = tuple(step * width for step in tensor.strides)
    return file.array(start + tensor.storage.offset * unit + tensor.offset * width, tensor.shape, tensor.dtype, strides)
