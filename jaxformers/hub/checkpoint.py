"""A checkpoint, whatever its format and number of files, as one mapping of names to memory-mapped arrays."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from jaxformers.hub import msgpack, safetensors, torchfile
from jaxformers.hub.mapped import TensorFile, broken

READERS: dict[str, Callable[[Path], TensorFile]] = {
    ".safetensors": safetensors.read,
    ".msgpack": msgpack.read,
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt"), torchfile.read),
}
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "flax_model.msgpack")  # best first
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # peft's, best first
INDEX = ".index.json"
LONE = (".safetensors", ".pt", ".pth")  # read under any name if the folder holds just one


def with_variant(name: str, variant: str | None) -> str:
    """`model.safetensors` as `model.fp16.safetensors`, the way transformers spells variants."""
    stem, suffix = name.rsplit(".", 1)
    return f"{stem}.{variant}.{suffix}" if variant else name


def candidates(variant: str | None = None) -> list[str]:
    """The file names a checkpoint may have, best first."""
    return [with_variant(name + end, variant) for name in WEIGHTS for end in ("", INDEX)]


def choose(names: Iterable[str], variant: str | None = None, where: str | os.PathLike = "the list of files") -> str:
    """The best weights among file names. Raises CheckpointError if there are none, or several that might be meant."""
    names = sorted(names)
    wanted = candidates(variant)
    for name in wanted:
        if name in names:
            return name
    for suffix in LONE:
        end = f".{variant}{suffix}" if variant else suffix
        found = [name for name in names if name.endswith(end) and "/" not in name]
        if len(found) == 1:
            return found[0]
        if found:
            advice = "Pass the path of the file you mean."
            raise broken(where, f"several weight files ({', '.join(found[:8])})", "one, or their index", advice)
    listed = ", ".join(names[:20]) or "nothing"
    advice = f"Looked for {', '.join(wanted)}, or one {', '.join(LONE)} file. Check the folder"
    raise broken(
        where, f"no weights among {listed}", "a checkpoint", advice + (" and the variant." if variant else ".")
    )


def files_of(choice: str, names: Iterable[str], variant: str | None = None) -> list[str]:
    """The chosen file, or the chosen index and the shards that belong to it, among file names."""
    base, indexed, _ = choice.partition(".index")
    if not indexed:
        return [choice]
    stem, suffix = map(re.escape, base.rsplit(".", 1))
    mark = re.escape(f".{variant}") if variant else ""
    # The variant stands before the numbers today and stood behind them in older checkpoints.
    shard = re.compile(rf"{stem}({mark}-\d+-of-\d+|-\d+-of-\d+{mark})\.{suffix}")
    return [choice, *sorted(name for name in names if shard.fullmatch(name))]


class Checkpoint(Mapping[str, np.ndarray]):
    """Every tensor by its PyTorch name, as a view of its file in PyTorch's layout."""

    def __init__(self, sources: Mapping[str, TensorFile]):
        self.sources = sources

    def __getitem__(self, name: str) -> np.ndarray:
        return self.sources[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def __contains__(self, name: object) -> bool:
        return name in self.sources

    @property
    def files(self) -> list[Path]:
        return list(dict.fromkeys(file.path for file in self.sources.values()))

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes(name) for name, file in self.sources.items())

    def release(self, name: str) -> None:
        """Hand a tensor's memory back to the system once it is copied; reading it again reads the disk again."""
        self.sources[name].release(name)

    def source(self, name: str) -> str:
        """The name of the file that holds a tensor."""
        return self.sources[name].path.name


def open_checkpoint(folder_or_file: str | os.PathLike, variant: str | None = None) -> Checkpoint:
    """Map a checkpoint from a folder, one weight file or an index. Raises CheckpointError if any part is wrong."""
    path = Path(folder_or_file)
    if path.is_dir():
        path /= choose((item.name for item in path.iterdir()), variant, path)
    if not path.is_file():
        raise broken(path, "no such file or folder", "a checkpoint", "Check the path.")
    if path.name.endswith(".json"):
        return open_index(path)
    file = open_file(path)
    return Checkpoint(dict.fromkeys(file, file))


def open_file(path: Path) -> TensorFile:
    """Map one weight file by its suffix."""
    if path.suffix not in READERS:
        raise broken(path, f"suffix {path.suffix!r}", f"one of {', '.join(READERS)}", "Rename the file to its format.")
    return READERS[path.suffix](path)


def open_index(path: Path) -> Checkpoint:
    """Map all the files of an index, and check that each tensor is where it says."""
    places = read_index(path)
    missing = [name for name in dict.fromkeys(places.values()) if not (path.parent / name).is_file()]
    if missing:
        found = f"{len(missing)} of its files missing ({', '.join(missing[:5])})"
        raise broken(path, found, "every file of the index beside it", "Download the missing files.")
    files = {name: open_file(path.parent / name) for name in dict.fromkeys(places.values())}
    for tensor, name in places.items():
        if tensor not in files[name]:
            raise broken(path, f"tensor {tensor!r} that is not in {name}", "every tensor in the file named for it")
    sources = {tensor: files[name] for tensor, name in places.items()}
    for file in files.values():
        for tensor in file:
            sources.setdefault(tensor, file)
    return Checkpoint(sources)


def read_index(path: Path) -> dict[str, str]:
    """{tensor: file} of an index, in PyTorch's names. Raises CheckpointError if a file may lie outside the folder."""
    try:
        index = json.loads(path.read_bytes())
        places = index["weight_map"]
        good = isinstance(places, dict) and places and all(isinstance(name, str) for name in places.values())
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise broken(path, f"no readable index ({type(error).__name__})", "JSON with a weight_map") from error
    if not good:
        raise broken(path, "a weight_map that is empty or not text by name", "{tensor name: file name}")
    for name in set(places.values()):
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or not inside.parts or set(name) & set("\\\0:"):
            advice = "Do not use this checkpoint unless you trust where it comes from."
            raise broken(path, f"file name {name!r:.80}", "a file inside the folder of the index", advice)
    if path.name.startswith("flax"):
        places = {msgpack.torch_name(tuple(name.split("/"))): file for name, file in places.items()}
    return places
