"""The safetensors format: a mapped reader that checks everything first, and a writer that streams tensor by tensor."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import numpy as np

from jaxformers.core.errors import CheckpointError
from jaxformers.hub.mapped import DTYPES, MappedFile, TensorFile, broken, byte_count, sizes_ok

MAX_HEADER = 100_000_000  # the format's own limit
BLOCK = 16 << 20  # bytes copied at a time when a tensor is not contiguous
CODES = {
    **{"BOOL": "bool", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64"},
    **{f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
}
NAMES = {DTYPES[name]: code for code, name in CODES.items()}
Progress = Callable[[int], None]


class ArrayLike(Protocol):
    """Anything with a shape and a dtype that numpy can turn into an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...


@dataclass(frozen=True)
class Entry:
    """A tensor to be written later: the header needs shape and dtype, its values are asked for when its turn comes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    materialise: Callable[[], ArrayLike]

    @property
    def nbytes(self) -> int:
        return byte_count(self.shape, np.dtype(self.dtype))


Pairs = Iterable[tuple[str, Entry | ArrayLike]]
Tensors = Mapping[str, Entry | ArrayLike] | Pairs


def read(path: str | os.PathLike) -> TensorFile:
    """Map a file's tensors; nothing but the header is read. Raises CheckpointError if any part of it is wrong."""
    file = MappedFile(path)
    header, _, start = read_header(file)
    spans = {name: check_entry(file, name, info, len(file) - start) for name, info in header.items()}
    end = 0
    for name, (begin, stop, _, _) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if begin != end:
            problem = f"{'a hole' if begin > end else 'an overlap'} before tensor {name!r}, which starts at {begin}"
            raise broken(path, problem, f"it to start at {end}, where the one before ends")
        end = stop
    if end != len(file) - start:
        raise broken(path, f"{len(file) - start} bytes of data", f"{end}, as the header says")
    views = {name: file.array(start + begin, shape, dtype) for name, (begin, _, shape, dtype) in spans.items()}
    return TensorFile(file, views)


def read_header(file: MappedFile) -> tuple[dict[str, object], dict[str, str], int]:
    """The header's tensors, its free text, and the byte where the data begin."""
    size = int.from_bytes(file.bytes(0, 8), "little") if len(file) >= 8 else -1
    if size < 0:
        raise broken(file.path, f"a file of {len(file)} bytes", "a safetensors header of at least 8")
    if size > MAX_HEADER:
        raise broken(file.path, f"a header of {size} bytes", f"at most {MAX_HEADER}", "Is it a safetensors file?")
    if 8 + size > len(file):
        raise broken(file.path, f"a header of {size} bytes in a file of {len(file)}", "the header inside the file")
    text = file.bytes(8, size)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates) if text[:1] == b"{" else None
    except (ValueError, RecursionError) as error:
        raise broken(file.path, f"a header that is not valid JSON ({error})", "a JSON object") from error
    if not isinstance(header, dict):
        raise broken(file.path, f"a header that begins with {text[:10]!r}", "a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise broken(file.path, "__metadata__ that is not text by name", "a JSON object of strings")
    return header, metadata, 8 + size


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The free text that the writer put into the header."""
    return read_header(MappedFile(path))[1]


def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object. Raises ValueError if a key comes twice: which one counts would be a guess."""
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in result if keys.count(key) > 1)!r}")
    return result


def check_entry(file: MappedFile, name: str, info: object, size: int) -> tuple[int, int, tuple[int, ...], np.dtype]:
    """(begin, end, shape, dtype) of one tensor of the header. Raises CheckpointError if they do not agree."""
    if not isinstance(info, dict) or not info.keys() >= {"dtype", "shape", "data_offsets"}:
        raise broken(file.path, f"no dtype, shape or data_offsets for tensor {name!r}", "all three")
    code, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(code, str) or code not in CODES:
        advice = "Save the tensor as whole bytes." if str(code)[:2] in ("F4", "F6") else "Download the file again."
        raise broken(file.path, f"dtype {code!r:.40} of tensor {name!r}", f"one of {', '.join(CODES)}", advice)
    if not sizes_ok(shape):
        raise broken(file.path, f"shape {shape!r:.80} of tensor {name!r}", "at most 64 non-negative integers")
    if not sizes_ok(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        raise broken(file.path, f"data_offsets {offsets!r:.80} of tensor {name!r}", f"a range inside 0:{size}")
    dtype = DTYPES[CODES[code]]
    if byte_count(shape, dtype) != offsets[1] - offsets[0]:
        found = f"{offsets[1] - offsets[0]} bytes for tensor {name!r}"
        raise broken(file.path, found, f"{byte_count(shape, dtype)} for {code} {shape}")
    return offsets[0], offsets[1], tuple(shape), dtype


def write(
    path: str | os.PathLike,
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the header from shapes alone, then one tensor at a time; returns the bytes of tensor data.

    On any error the half-written file is removed. `progress` is told the bytes of every block written.
    """
    entries = widest_first(listed(path, tensors))
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name, entry in entries:
        begin, end = end, end + entry.nbytes
        header[name] = {"dtype": code_of(path, name, entry), "shape": list(entry.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # 8 is the format's rule; from a multiple of 64 on, a CPU program reads the mapped file in place.
    text += b" " * (-(8 + len(text)) % 64)
    try:
        with open(path, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name, entry in entries:
                write_tensor(out, path, name, entry, progress)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return end


def listed(path: str | os.PathLike, tensors: Tensors) -> list[tuple[str, Entry]]:
    """Everything to be written as entries. Raises CheckpointError if a name cannot be written or comes twice."""
    pairs = list(cast(Pairs, tensors.items() if isinstance(tensors, Mapping) else tensors))
    names = {name for name, _ in pairs}
    if len(names) != len(pairs) or "__metadata__" in names:
        raise CheckpointError(f"{path}: a tensor name comes twice or is '__metadata__'; give each its own name.")
    return [(name, as_entry(value)) for name, value in pairs]


def widest_first(entries: list[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
    """As the safetensors package does it: every tensor is then aligned to its own item size."""
    return sorted(entries, key=lambda item: -np.dtype(item[1].dtype).itemsize)


def in_order(tensors: Tensors, shard_size: str | int) -> Iterator[Entry]:
    """Entries in the order in which `write_sharded` asks for their values."""
    for shard in split(listed("tensors", tensors), parse_size(shard_size)):
        yield from (entry for _, entry in widest_first(shard))


def as_entry(value: Entry | ArrayLike) -> Entry:
    """An entry of anything with a shape and a dtype; values come from its `materialise`, or it is an array itself."""
    materialise = getattr(value, "materialise", lambda: value)
    return Entry(tuple(value.shape), np.dtype(value.dtype), materialise)


def code_of(path: str | os.PathLike, name: str, entry: Entry) -> str:
    code = NAMES.get(np.dtype(entry.dtype))
    if code is None:
        raise broken(path, f"dtype {entry.dtype} of {name!r}", f"one of {', '.join(map(str, NAMES))}", "Cast it first.")
    return code


def write_tensor(out: BinaryIO, path: str | os.PathLike, name: str, entry: Entry, progress: Progress | None) -> None:
    """Materialise one tensor and write it in blocks, so that a transposed view needs no second copy of it."""
    array = np.asarray(entry.materialise())
    if array.shape != tuple(entry.shape) or array.dtype != np.dtype(entry.dtype):
        found = f"{name!r} turned out as {array.dtype} {array.shape}"
        raise broken(path, found, f"{entry.dtype} {tuple(entry.shape)} as announced", "Announce what it is.")
    rows = array.reshape(1, -1) if array.flags.c_contiguous or array.ndim == 0 else array
    step = max(1, BLOCK // max(1, rows[0].nbytes)) if rows.size else 1
    for start in range(0, len(rows) if rows.size else 0, step):
        block = np.ascontiguousarray(rows[start : start + step]).reshape(-1).view(np.uint8)
        for at in range(0, len(block), BLOCK):
            out.write(block[at : at + BLOCK].data)
            if progress:
                progress(min(BLOCK, len(block) - at))


def write_sharded(
    folder: str | os.PathLike,
    tensors: Tensors,
    shard_size: str | int = "5GB",
    stem: str = "model",
    progress: Progress | None = None,
) -> list[Path]:
    """Write `model.safetensors`, or numbered shards and their index if that would be larger than a shard."""
    folder = Path(folder)
    entries = listed(folder, tensors)
    shards = split(entries, parse_size(shard_size))
    if len(shards) <= 1:
        write(folder / f"{stem}.safetensors", entries, progress=progress)
        return [folder / f"{stem}.safetensors"]
    names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file, shard in zip(names, shards, strict=True):
        write(folder / file, shard, progress=progress)
    places = {name: file for file, shard in zip(names, shards, strict=True) for name, _ in shard}
    count = sum(int(np.prod(entry.shape, dtype=object)) for _, entry in entries)
    total = {"total_parameters": count, "total_size": sum(entry.nbytes for _, entry in entries)}
    index = folder / f"{stem}.safetensors.index.json"
    text = json.dumps({"metadata": total, "weight_map": places}, indent=2, sort_keys=True)
    index.write_text(text + "\n", encoding="utf-8")
    return [*(folder / file for file in names), index]


def split(entries: list[tuple[str, Entry]], limit: int) -> list[list[tuple[str, Entry]]]:
    """Fill shards in order; a tensor larger than a shard gets one of its own. Cut exactly as transformers cuts."""
    done: list[list[tuple[str, Entry]]] = []
    current: list[tuple[str, Entry]] = []
    size = 0
    for name, entry in entries:
        if entry.nbytes > limit:
            done.append([(name, entry)])
            continue
        if size + entry.nbytes > limit:
            done.append(current)
            current, size = [], 0
        current.append((name, entry))
        size += entry.nbytes
    return [*done, current] if current else done


def parse_size(size: str | int) -> int:
    """Bytes of '5GB' (powers of ten) or '5GiB' (powers of two)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(size), re.IGNORECASE)
    bytes_ = match and float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ")
    if not bytes_ or bytes_ < 1:
        raise CheckpointError(f"shard size {size!r} is not a size; write it like '5GB', '500MB' or '2GiB'.")
    return int(bytes_)
