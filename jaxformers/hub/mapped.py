"""A weight file mapped into memory: arrays are views of the file, and their pages can be handed back."""

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxformers.core.errors import CheckpointError

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(getattr(ml_dtypes, name, None) or name)
    for name in (
        "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 complex64 complex128 "
        "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
    ).split()
}

POINTER = b"version https://git-lfs"


def broken(path: str | os.PathLike, found: str, expected: str, advice: str = "") -> CheckpointError:
    """The one form of error about a file: what was found, what was expected, what to do."""
    return CheckpointError(f"{path}: {found}; expected {expected}. {advice or 'Download or save the file again.'}")


class MappedFile:
    """A read-only file as one byte array; nothing is read from disk until a view is."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        except OSError as error:
            raise broken(path, f"cannot be opened ({error.strerror})", "a readable file", "Check the path.") from error
        self.raw = np.frombuffer(self.map if self.map is not None else b"", np.uint8)
        if self.raw[: len(POINTER)].tobytes() == POINTER:
            raise broken(path, "a Git LFS pointer", "the weights themselves", "Fetch them with `git lfs pull`.")

    def __len__(self) -> int:
        return len(self.raw)

    def bytes(self, start: int, size: int) -> bytes:
        """A copy of some bytes, for headers. Raises CheckpointError past the end of the file."""
        if start < 0 or size < 0 or start + size > len(self):
            raise broken(self.path, f"bytes {start}:{start + size} asked of {len(self)}", "a complete file")
        return self.raw[start : start + size].tobytes()

    def array(
        self, start: int, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """A view at a byte offset, which need not be aligned; numpy itself refuses one that leaves the file."""
        try:
            return np.ndarray(shape, dtype, buffer=self.raw, offset=start, strides=strides)
        except (ValueError, TypeError, OverflowError, MemoryError) as error:
            found = f"a tensor of shape {shape} at byte {start} ({error})"
            raise broken(self.path, found, "one inside the file") from error

    def release(self, array: np.ndarray) -> None:
        """Give the pages that lie wholly inside a view back to the system; they are read again when touched."""
        if self.map is None or not hasattr(mmap, "MADV_DONTNEED") or not array.size:
            return
        spans = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
        first = array.ctypes.data - self.raw.ctypes.data
        start = first + sum(min(span, 0) for span in spans)
        stop = first + sum(max(span, 0) for span in spans) + array.itemsize
        start, stop = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
        if 0 <= start < stop <= len(self):
            self.map.madvise(mmap.MADV_DONTNEED, start, stop - start)


class TensorFile(Mapping[str, np.ndarray]):
    """The tensors of one file by name, as views of it in PyTorch's names and layout."""

    def __init__(self, file: MappedFile, tensors: Mapping[str, np.ndarray]):
        self.file, self.tensors = file, tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def path(self) -> Path:
        return self.file.path

    def nbytes(self, name: str) -> int:
        return self.tensors[name].nbytes

    def release(self, name: str) -> None:
        """Give the tensor's pages back to the system."""
        self.file.release(self.tensors[name])


def sizes_ok(values: object, limit: int = 64) -> bool:
    """Whether this is a list or tuple of plain non-negative integers, as shapes are (numpy allows 64 axes)."""
    return isinstance(values, list | tuple) and len(values) <= limit and all(type(v) is int and v >= 0 for v in values)


def byte_count(shape: tuple[int, ...] | list[int], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
