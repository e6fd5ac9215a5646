"""Flax checkpoints (`flax_model.msgpack`) as PyTorch-named, PyTorch-shaped views, so that one key map serves both.

The format is walked here, not with the msgpack package: that one copies every array, this one notes where arrays lie.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from jaxformers.core.errors import CheckpointError
from jaxformers.hub.mapped import DTYPES, MappedFile, TensorFile, broken, byte_count, sizes_ok

ARRAY, SCALAR = 1, 3  # flax.serialization's extension codes
CHUNKED = "__msgpack_chunked_array__"
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
NUMBERS |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes in the file: raw ones, or an extension's with its code."""

    start: int
    size: int
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Pieces:
    """An array that flax cut into chunks, put together when asked for."""

    chunks: tuple[np.ndarray, ...]
    arrange: Callable[[np.ndarray], np.ndarray]
    nbytes: int

    def join(self) -> np.ndarray:
        return self.arrange(np.concatenate(self.chunks))


class FlaxFile(TensorFile):
    """The tensors of a flax file; a chunked one is joined in memory once and kept until released."""

    def __init__(self, file: MappedFile, tensors: Mapping[str, np.ndarray], pieces: Mapping[str, Pieces]):
        super().__init__(file, tensors)
        self.pieces = pieces
        self.joined: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.pieces:
            if name not in self.joined:
                self.joined[name] = self.pieces[name].join()
            return self.joined[name]
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.tensors
        yield from self.pieces

    def __len__(self) -> int:
        return len(self.tensors) + len(self.pieces)

    def nbytes(self, name: str) -> int:
        return self.pieces[name].nbytes if name in self.pieces else super().nbytes(name)

    def release(self, name: str) -> None:
        self.joined.pop(name, None)
        for array in self.pieces[name].chunks if name in self.pieces else (self.tensors[name],):
            self.file.release(array)


def read(path: str | os.PathLike) -> FlaxFile:
    """Map a flax file's arrays. Raises CheckpointError if anything in it is damaged."""
    file = MappedFile(path)
    walker = Walker(file, 0, len(file))
    try:
        tree = walker.value()
        if not isinstance(tree, dict) or walker.at != walker.end:
            raise ValueError("no single dictionary" if walker.at == walker.end else "bytes after the end")
        tensors: dict[str, np.ndarray] = {}
        pieces: dict[str, Pieces] = {}
        for names, leaf in leaves(tree, ()):
            name = torch_name(names)
            if name in tensors or name in pieces:
                raise ValueError(f"two leaves named {name!r:.80}")
            if isinstance(leaf, dict):
                place(file, name, names[-1], leaf, tensors, pieces)
            else:
                tensors[name] = torch_layout(names[-1], read_array(file, leaf))
    # Damaged bytes fail in many ways (struct, unicode, numpy); the caller needs one error.
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        OverflowError,
        RecursionError,
        MemoryError,
        struct.error,
    ) as error:
        if isinstance(error, CheckpointError):
            raise
        found = f"damaged msgpack ({type(error).__name__}: {str(error)[:100]})"
        raise broken(path, found, "a tree of arrays as flax.serialization writes it") from error
    if not tensors and not pieces:
        raise broken(path, "no array", "a tree of arrays as flax.serialization writes it")
    file.release(file.raw)  # walking the headers has touched pages all over the file
    return FlaxFile(file, tensors, pieces)


def torch_name(names: tuple[str, ...]) -> str:
    """The state-dict name of a path: collections drop out, `kernel`, `scale` and `embedding` become `weight`."""
    *path, leaf = names
    path = path[1:] if path and path[0] in ("params", "batch_stats") else path
    return ".".join((*path, LEAVES.get(leaf, leaf)))


def torch_layout(leaf: str, array: np.ndarray) -> np.ndarray:
    """[*space, in, out] kernels as PyTorch's [out, in, *space]; the other leaves as they are.

    A kernel of two axes of space goes HWIO to OIHW; any other is reversed, which is what transformers 4 did.
    """
    if leaf != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def leaves(tree: dict[str, object], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Span | dict]]:
    """(path, extension or chunked dictionary) of everything in the tree that is an array."""
    for name, value in tree.items():
        if isinstance(value, dict) and CHUNKED not in value:
            yield from leaves(value, (*path, name))
        elif isinstance(value, dict) or (isinstance(value, Span) and value.code in (ARRAY, SCALAR)):
            yield (*path, name), value


def read_array(file: MappedFile, span: Span) -> np.ndarray:
    """The view behind an array extension: (shape, dtype name, bytes), packed once more."""
    walker = Walker(file, span.start, span.start + span.size)
    parts = walker.value()
    if not isinstance(parts, list) or len(parts) != 3 or walker.at != walker.end:
        raise ValueError("an array that is not (shape, dtype, bytes)")
    shape, name, data = parts
    if isinstance(name, Span):  # flax has written names as text and as bytes
        name = file.bytes(name.start, name.size).decode("ascii")
    if not sizes_ok(shape) or name not in DTYPES or not isinstance(data, Span) or data.code is not None:
        raise ValueError(f"an array of dtype {name!r:.40} or with a wrong shape or no bytes")
    if byte_count(shape, DTYPES[name]) != data.size:
        raise ValueError(f"{data.size} bytes for an array {name} {shape}")
    return file.array(data.start, tuple(shape), DTYPES[name])


def place(
    file: MappedFile, name: str, leaf: str, tree: dict, tensors: dict[str, np.ndarray], pieces: dict[str, Pieces]
) -> None:
    """Put a chunked array among the tensors if it is one chunk, else among the pieces."""
    shape, chunks = in_order(tree["shape"]), tuple(read_array(file, span) for span in in_order(tree["chunks"]))
    same = {(chunk.dtype, chunk.ndim) for chunk in chunks}
    if not sizes_ok(shape) or len(same) != 1 or chunks[0].ndim != 1:
        raise ValueError("a chunked array without a shape or with unlike chunks")
    if sum(chunk.size for chunk in chunks) * chunks[0].itemsize != byte_count(shape, chunks[0].dtype):
        raise ValueError(f"chunks that do not fill shape {shape}")

    def arrange(flat: np.ndarray) -> np.ndarray:
        return torch_layout(leaf, flat.reshape(shape))

    if len(chunks) == 1:
        tensors[name] = arrange(chunks[0])
    else:
        pieces[name] = Pieces(chunks, arrange, sum(chunk.nbytes for chunk in chunks))


def in_order(tree: dict[str, object]) -> list:
    """The tuple that flax wrote as {"0": first, "1": second, ...}."""
    if not isinstance(tree, dict):
        raise ValueError("a tuple that is not written as a dictionary")
    return [tree[str(i)] for i in range(len(tree))]


class Walker:
    """Decodes msgpack values between two bytes of a file; byte strings and extensions stay where they are."""

    def __init__(self, file: MappedFile, start: int, end: int):
        self.file, self.at, self.end = file, start, end

    def take(self, size: int) -> bytes:
        start = self.skip(size)
        return self.file.bytes(start, size)

    def skip(self, size: int) -> int:
        start, self.at = self.at, self.at + size
        if self.at > self.end:
            raise ValueError("it ends in the middle of a value")
        return start

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def value(self) -> object:
        """The next value: None, bool, number, str, list, dict or Span."""
        tag = self.integer(1)
        if tag < 0x80 or tag >= 0xE0:
            return tag if tag < 0x80 else tag - 0x100
        if tag < 0xC0:
            return self.short(tag)
        if tag in CONSTANTS:
            return CONSTANTS[tag]
        if tag in NUMBERS:
            return struct.unpack(NUMBERS[tag], self.take(struct.calcsize(NUMBERS[tag])))[0]
        return self.long(tag)

    def short(self, tag: int) -> object:
        """Maps, lists and text whose length stands in the tag."""
        if tag < 0x90:
            return self.mapping(tag & 0x0F)
        return self.sequence(tag & 0x0F) if tag < 0xA0 else self.text(tag & 0x1F)

    def long(self, tag: int) -> object:
        """Everything whose length follows the tag. Raises ValueError for the one tag msgpack never uses."""
        if 0xD4 <= tag <= 0xD8:
            return self.extension(1 << (tag - 0xD4))
        if 0xC4 <= tag <= 0xC9:
            size = self.integer(1 << (tag - 0xC4) % 3)
            return Span(self.skip(size), size) if tag < 0xC7 else self.extension(size)
        if 0xD9 <= tag <= 0xDB:
            return self.text(self.integer(1 << (tag - 0xD9)))
        if 0xDC <= tag <= 0xDF:
            size = self.integer(2 if tag % 2 == 0 else 4)
            return self.sequence(size) if tag < 0xDE else self.mapping(size)
        raise ValueError(f"unknown tag {tag:#x}")

    def extension(self, size: int) -> Span:
        code = self.integer(1)
        return Span(self.skip(size), size, code)

    def text(self, size: int) -> str:
        return self.take(size).decode("utf-8")

    def sequence(self, size: int) -> list:
        return [self.value() for _ in range(size)]

    def mapping(self, size: int) -> dict[str, object]:
        result: dict[str, object] = {}
        for _ in range(size):
            key = self.value()
            if not isinstance(key, str) or key in result:
                raise ValueError(f"a key that is not text, or twice: {key!r:.40}")
            result[key] = self.value()
        return result
