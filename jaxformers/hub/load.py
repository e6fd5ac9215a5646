"""Stream a checkpoint into parameters: each device reads only its own shard from the memory map.

A tensor that needs no change is handed over as it lies in the file: CPU programs then read the mapped file in place,
and accelerators copy straight from it. Others (another dtype, stacked layers, fused or turned tensors) are copied once.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from jaxformers.core import sharding
from jaxformers.core.errors import CheckpointError
from jaxformers.core.keymap import KeyMap, Piece, join, their_shape, to_ours
from jaxformers.hub.abstract import Path, flatten, unbox, unflatten

log = logging.getLogger("jaxformers")
THREADS = 4
ALIGNMENT = 64  # bytes; XLA's CPU client uses aligned host memory as it is


@dataclass(frozen=True)
class Source:
    """One leaf of ours and the checkpoint tensors behind it, each under the key that this checkpoint uses."""

    path: Path
    shape: tuple[int, ...]
    pieces: tuple[tuple[Piece, str], ...]

    @property
    def name(self) -> str:
        """The path as people write it."""
        return "/".join(self.path)


def choose_prefix(prefixes: tuple[str, ...], keys: KeyMap, names: Mapping[str, Any]) -> str:
    """Where this checkpoint holds the backbone: the first prefix under which it has any tensor the table knows."""
    templates = [v if isinstance(v, str) else v.key for v in keys.rules.values()]
    starts = {t.split("{")[0].rstrip(".") for t in templates} - {""}
    for prefix in prefixes:
        wanted = {join(prefix, s) for s in starts}
        if any(name == w or name.startswith(w + ".") for w in wanted for name in names):
            return prefix
    return prefixes[0]


def find_sources(keys: KeyMap, boxed: Any, names: Mapping[str, Any]) -> tuple[list[Source], dict[Path, list[str]]]:
    """Match every leaf with tensors. Returns the sources, and {path: keys looked for} of leaves that have none."""
    found, missing = [], {}
    for path, leaf in flatten(boxed).items():
        shape = tuple(unbox(leaf).shape)
        pieces, absent = [], []
        for piece in keys.pieces(path, shape):
            key = next((k for k in piece.keys if k in names), None)
            pieces.append((piece, key))
            if key is None:
                absent.append(piece.keys[0])
        if absent:
            missing[path] = absent
        else:
            found.append(Source(path, shape, tuple(pieces)))
    return found, missing


def check_unused(sources: list[Source], keys: KeyMap, names: Mapping[str, Any], prefix: str) -> None:
    """Raise CheckpointError for backbone tensors that nothing reads; other heads' tensors are logged."""
    used = {key for s in sources for _, key in s.pieces}
    unused = [k for k in names if k not in used and not keys.ignores(k)]
    inside = [k for k in unused if (not prefix or k.startswith(prefix + ".")) and not keys.knows(k)]
    if inside:
        raise CheckpointError(
            f"the checkpoint holds {len(inside)} tensors that the model does not read: {', '.join(inside[:4])}, ...; "
            "the config names a smaller or another model than the checkpoint's"
        )
    if unused:
        log.info("not read, they belong to another head: %s", ", ".join(unused[:8]))


def check_shapes(sources: list[Source], tensors: Mapping[str, np.ndarray]) -> None:
    """Raise CheckpointError for the first tensor whose shape is not the model's."""
    for source in sources:
        for piece, key in source.pieces:
            shape = their_shape(source.path[-1], piece.shape)
            tensor = tensors[key]
            whole = piece.part.whole(shape)
            exact = tuple(tensor.shape) == whole if piece.part.shape is None else tensor.size == int(np.prod(whole))
            if not exact:
                raise CheckpointError(
                    f"{key} has shape {tuple(tensor.shape)}; {source.name} needs {whole}. "
                    "The config does not describe this checkpoint"
                )


def read_piece(source: Source, piece: Piece, tensor: np.ndarray) -> np.ndarray:
    """One checkpoint tensor, viewed in our layout."""
    view = piece.part.view(tensor).reshape(their_shape(source.path[-1], piece.shape))
    return to_ours(source.path[-1], view)


def aligned_empty(shape: list[int], dtype: Any) -> np.ndarray:
    """Like `np.empty`, at an address that XLA can use without copying again."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def read_slice(source: Source, tensors: Mapping[str, np.ndarray], index: tuple[slice, ...], dtype: Any) -> np.ndarray:
    """The part of a leaf that one device holds: the mapped file itself where it can serve, else a copy."""
    if len(source.pieces) == 1:
        ((piece, key),) = source.pieces
        view = read_piece(source, piece, tensors[key])[tuple(index[len(piece.at) :])]
        if not piece.at and view.dtype == dtype and view.flags.c_contiguous:
            return view
    spans = [range(*s.indices(n)) for s, n in zip(index, source.shape, strict=True)]
    out = aligned_empty([len(s) for s in spans], dtype)
    for piece, key in source.pieces:
        if any(i not in span for i, span in zip(piece.at, spans, strict=False)):
            continue
        at = tuple(i - span.start for i, span in zip(piece.at, spans, strict=False))
        view = read_piece(source, piece, tensors[key])
        out[at] = view[tuple(index[len(piece.at) :])]
    return out


def read_params(
    sources: list[Source],
    tensors: Mapping[str, np.ndarray],
    shardings: Mapping[Path, Any],
    dtype: Any = None,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[Path, jax.Array]:
    """Read every leaf into its sharding, a few at a time; floating tensors are cast to `dtype` when it is given."""
    release = getattr(tensors, "release", lambda key: None)

    def one(source: Source) -> jax.Array:
        stored = tensors[source.pieces[0][1]].dtype
        target = dtype if dtype is not None and jnp.issubdtype(stored, jnp.floating) else stored
        array = jax.make_array_from_callback(
            source.shape, shardings[source.path], lambda index: read_slice(source, tensors, index, target)
        )
        array.block_until_ready()
        progress(sum(tensors[key].nbytes for _, key in source.pieces))
        if not any(reads_in_place(array, tensors[key]) for _, key in source.pieces):
            for _, key in source.pieces:
                release(key)
        return array

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip([s.path for s in sources], pool.map(one, sources), strict=True))


def reads_in_place(array: jax.Array, tensor: np.ndarray) -> bool:
    """Whether an array on a CPU device is the mapped file's own memory."""
    start = tensor.__array_interface__["data"][0]
    devices = array.sharding.addressable_devices
    if not all(d.platform == "cpu" for d in devices):
        return False
    places = (s.data.unsafe_buffer_pointer() for s in array.addressable_shards)
    return any(start <= place < start + max(tensor.nbytes, 1) for place in places)


def leaf_shardings(boxed: Any, mesh: Mesh | None, rules: sharding.Rules) -> dict[Path, Any]:
    """Where each leaf lives: by the rules on a mesh, else on the default device."""
    if mesh is not None:
        return flatten(sharding.named_shardings(boxed, mesh, rules))
    here = SingleDeviceSharding(jax.config.jax_default_device or jax.local_devices()[0])
    return dict.fromkeys(flatten(boxed), here)


def load_params(
    keys: KeyMap,
    boxed: Any,
    tensors: Mapping[str, np.ndarray],
    *,
    prefix: str = "",
    mesh: Mesh | None = None,
    rules: sharding.Rules = sharding.FSDP,
    dtype: Any = None,
    fresh: Callable[[list[Path]], dict[Path, jax.Array]] | None = None,
    keyed: bool = True,
    may_be_fresh: Callable[[Path], bool] = lambda path: False,
    is_constant: Callable[[Path], bool] = lambda path: False,
    progress: Callable[[int], None] = lambda n: None,
    quantized: Any = None,
) -> dict[str, Any]:
    """Build a parameter tree from checkpoint tensors. Raises CheckpointError on missing, extra or misshapen ones.

    fresh: makes the values of leaves that the checkpoint lacks: those that `may_be_fresh` allows (a new head), given
    `keyed`, and those that `is_constant` says are always the same. quantized: a `QuantizedReader` for what it takes.
    """
    sources, missing = find_sources(keys, boxed, tensors)
    lost = {p: k for p, k in missing.items() if not (may_be_fresh(p) or is_constant(p))}
    if lost:
        path, wanted = next(iter(lost.items()))
        raise CheckpointError(
            f"{'/'.join(path)} needs {', '.join(wanted[:3])}, not in the checkpoint"
            f" ({len(lost)} parameters lack a tensor); is it another model's, or is a shard missing?"
        )
    random = [p for p in missing if not is_constant(p)]
    if missing and fresh is None or random and not keyed:
        names = ", ".join("/".join(p) for p in random or missing)
        raise CheckpointError(
            f"the checkpoint has no values for {names}; pass key=jax.random.key(0) to initialise them"
        )
    check_unused(sources, keys, tensors, prefix)
    check_shapes(sources, tensors)
    places = leaf_shardings(boxed, mesh, rules)
    apart = [s for s in sources if quantized is not None and quantized.takes(s)]
    flat = read_params([s for s in sources if s not in apart], tensors, places, dtype, progress)
    flat |= quantized.read(apart, progress) if apart else {}
    if random:
        log.warning("newly initialised, train them before use: %s", ", ".join("/".join(p) for p in random))
    if missing and fresh is not None:
        flat |= fresh(list(missing))
    return unflatten({path: flat[path] for path in flatten(boxed)})
