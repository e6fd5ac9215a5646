"""Quantised leaves from a checkpoint: read as they are stored, or rounded while they are read, a few rows at a time.

So the weights of a large model never lie in memory as they were: a device's rows of one layer do, and what became of
them.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from jaxformers.core.errors import CheckpointError
from jaxformers.core.keymap import Piece, their_shape
from jaxformers.core.qtensor import STORED, QTensor, pack, span_of
from jaxformers.core.sharding import Rules
from jaxformers.hub.abstract import Path
from jaxformers.hub.compressed import Stored
from jaxformers.hub.load import THREADS, Source, read_piece
from jaxformers.hub.rounded import Rounding, is_turned, places_of, program, rounded, with_names

Index = tuple[slice, ...]
Rows = Callable[[Piece, str, Index], tuple[np.ndarray, np.ndarray]]  # of one tensor: values, and scales [out,groups]


@dataclass(frozen=True)
class QuantizedReader:
    """Reads the leaves that a checkpoint holds quantised, and rounds those that `rounding` chooses."""

    tensors: Mapping[str, Any]
    names: Mapping[Path, tuple]  # the logical names of every leaf
    rounding: Rounding | None
    chosen: Mapping[Path, tuple]
    mesh: Mesh | None
    rules: Rules
    dtype: Any = None

    def takes(self, source: Source) -> bool:
        """Whether a leaf is one of them. Raises CheckpointError for one that is quantised and to be rounded again."""
        stored = any(isinstance(self.tensors[key], Stored) for _, key in source.pieces)
        if stored and self.rounding is not None:
            raise CheckpointError(f"{source.name} is quantised already: load the checkpoint without quantize=")
        return stored or source.path in self.chosen

    def read(self, sources: list[Source], progress: Callable[[int], None]) -> dict[Path, QTensor]:
        """The leaves, a few at a time."""

        def one(source: Source) -> QTensor:
            leaf = self.leaf(source)
            progress(sum(self.tensors[key].nbytes for _, key in source.pieces))
            for _, key in source.pieces:
                getattr(self.tensors, "release", ignore)(key)
            return leaf

        with ThreadPoolExecutor(THREADS) as pool:
            return dict(zip([source.path for source in sources], pool.map(one, sources), strict=True))

    def leaf(self, source: Source) -> QTensor:
        """One leaf where it will live."""
        axes = tuple(name for name in self.names[source.path] if name != "layers")
        shapes, rows = stored_leaf(source, self.tensors, axes, self.dtype) or rounded_leaf(
            source, self.tensors, axes, self.rounding, self.dtype
        )
        if self.mesh is None:
            here = SingleDeviceSharding(jax.config.jax_default_device or jax.local_devices()[0])
            return read_leaf(source, shapes, rows, shapes.replace(values=here, scale=here))  # type: ignore[attr-defined]
        return read_leaf(source, shapes, rows, places_of(shapes, self.mesh, self.rules))


def ignore(key: str) -> None:
    """For mappings whose memory cannot be handed back."""


def stored_leaf(source: Source, tensors: Mapping[str, Any], axes: tuple, dtype: Any) -> tuple[QTensor, Rows] | None:
    """Shapes of a leaf that is stored quantised, and how its rows are read; None for any other."""
    found = [tensors[key] for _, key in source.pieces]
    if not isinstance(found[0], Stored):
        return None
    kinds = {(one.kind, one.scale().shape[1], one.dtype) if isinstance(one, Stored) else one.dtype for one in found}
    if len(kinds) > 1:
        raise CheckpointError(f"{source.name} is made of matrices that are quantised in different ways: {kinds}")
    if any(piece.part.in_out for piece, _ in source.pieces):
        raise CheckpointError(f"{source.name} is stored the other way round, as no quantised matrix is")
    kind, groups, scale_dtype = found[0].kind, found[0].scale().shape[1], found[0].dtype
    turned = is_turned(source.path)
    outputs, inputs = source.shape[-2:][::-1] if turned else source.shape[-2:]
    span = span_of(inputs, inputs // groups) if kind == "int4" else 0
    lead = source.shape[:-2]
    shapes = QTensor(
        jax.ShapeDtypeStruct((*lead, outputs, inputs // 2 if span else inputs), STORED[kind]),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((*lead, groups, outputs), scale_dtype),  # type: ignore[arg-type]
        *(kind, jnp.dtype(scale_dtype if dtype is None else dtype), (None, None), turned, span),
    )

    def rows(piece: Piece, key: str, index: Index) -> tuple[np.ndarray, np.ndarray]:
        shape = their_shape(source.path[-1], piece.shape)
        values = piece.part.view(tensors[key].values()).reshape(shape)[index[-1]]
        scale = piece.part.view(tensors[key].scale()).reshape(shape[0], groups)[index[-1]]
        return pack(values, span) if span else values, scale

    return with_names(shapes, axes), rows


def rounded_leaf(source: Source, tensors: Mapping[str, Any], axes: tuple, rounding: Any, dtype: Any):
    """Shapes of a leaf that is rounded while it is read, and how its rows are."""
    stored = tensors[source.pieces[0][1]].dtype
    turned, kind = is_turned(source.path), jnp.dtype(stored if dtype is None else dtype)
    one = partial(rounded, rounding.kind, rounding.group, turned, dtype=kind)
    shapes = with_names(jax.eval_shape(one, jax.ShapeDtypeStruct(source.shape, kind)), axes)
    make = program(rounding.kind, rounding.group, turned, False, None, kind)

    def rows(piece: Piece, key: str, index: Index) -> tuple[np.ndarray, np.ndarray]:
        view = read_piece(source, piece, tensors[key])
        cut = (*index[:-1], slice(None), index[-1]) if turned else (*index, slice(None))
        with jax.default_device(host_device()):
            found = make(np.ascontiguousarray(view[cut]))
        return np.asarray(found.values), np.swapaxes(np.asarray(found.scale), -1, -2)

    return shapes, rows


def host_device() -> Any:
    """The CPU, where rows are rounded before they are sent; without one, the default device."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def read_leaf(source: Source, shapes: QTensor, rows: Rows, places: QTensor) -> QTensor:
    """Both arrays, each device's part where it will live. Rows that several devices share are made once."""
    made: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}

    def region(index: Index) -> tuple[np.ndarray, np.ndarray]:
        spans = [range(*s.indices(n)) for s, n in zip(index, shapes.values.shape, strict=False)]
        key = tuple((span.start, span.stop) for span in spans)
        if key not in made:
            made[key] = read_region(source, shapes, rows, spans)
        return made[key]

    def values(index: Index) -> np.ndarray:
        return region(index[:-1])[0][..., index[-1]]

    def scale(index: Index) -> np.ndarray:
        return np.swapaxes(region((*index[:-2], index[-1]))[1], -1, -2)[..., index[-2], :]

    arrays = {
        name: jax.make_array_from_callback(getattr(shapes, name).shape, getattr(places, name), make)
        for name, make in (("values", values), ("scale", scale))
    }
    return jax.block_until_ready(shapes.replace(**arrays))  # type: ignore[attr-defined]


def read_region(source: Source, shapes: QTensor, rows: Rows, spans: list[range]) -> tuple[np.ndarray, np.ndarray]:
    """Values [...,out,in] and scales [...,out,groups] of some layers, experts and outputs."""
    sizes = [len(span) for span in spans]
    values = np.empty((*sizes, shapes.values.shape[-1]), shapes.values.dtype)
    scale = np.empty((*sizes, shapes.groups), shapes.scale.dtype)
    for piece, key in source.pieces:
        if any(i not in span for i, span in zip(piece.at, spans, strict=False)):
            continue
        at = tuple(i - span.start for i, span in zip(piece.at, spans, strict=False))
        rest = tuple(slice(span.start, span.stop) for span in spans[len(piece.at) :])
        values[at], scale[at] = rows(piece, key, rest)
    return values, scale
