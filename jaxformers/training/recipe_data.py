"""The [data] section of a recipe: where rows come from, and what is done to them on the way to a batch."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.training.data import (
    BestFit,
    ConcatSplit,
    FirstFit,
    ImageFolder,
    ProcessImage,
    Tokenize,
    TokenizeChat,
    TokenizeCompletion,
    TokenizeWords,
    read_rows,
    tfds_source,
)
from jaxformers.training.data.collate import collate_arrays, collator_for
from jaxformers.training.data.folders import SUFFIXES
from jaxformers.training.data.synthetic import Synthetic
from jaxformers.training.feeding import Prepared
from jaxformers.training.recipe import expected

# What becomes of a row, by the name under [data] `transform`; each takes the fields of its own as options.
TRANSFORMS = {"text": Tokenize, "words": TokenizeWords, "chat": TokenizeChat, "completion": TokenizeCompletion}
TRANSFORMS["image"] = ProcessImage
PACKERS = {"first_fit": FirstFit, "best_fit": BestFit, "concat": ConcatSplit}
NAMES = (
    "train",
    "eval",
    "eval_rows",
    "kind",
    "stream",
    "transform",
    "pack",
    "length",
    "collator",
    "metrics",
    "columns",
)


class Data(NamedTuple):
    """Datasets for a Trainer, and the collator when the section says something about it."""

    train: Any
    eval: Any
    collator: Any


def make_data(section: dict[str, Any], model: Any, processor: Any) -> Data:
    """Datasets and collator of a section. Raises ConfigError for what it does not have, DataError for missing files.

    train, eval: files or patterns of them, a folder of pictures by class, "tfds:name/split", or "synthetic" for random
    rows of the task's shapes, to measure speed or to try a run. eval_rows: how many
    rows are held out of train instead. columns: {the row's name: the name that is read}. transform: {kind = "text",
    ...}. pack: "first_fit", "best_fit" or "concat" into rows of `length` tokens. collator: options of the task's.
    """
    for name in section:
        if name not in NAMES:
            raise ConfigError(f"[data] has {name}; {expected(name, NAMES)}")
    if "train" not in section:
        raise ConfigError("[data] needs train: files, a folder of pictures, 'tfds:name/split', or 'synthetic'")
    if section["train"] == "synthetic":
        length = section.get("length")
        held = section.get("eval_rows", 0)
        test = Synthetic(model.config, model.task, length=length, rows=held, seed=1) if held else None
        return Data(Synthetic(model.config, model.task, length=length), test, collate_arrays)
    train, test = sources(section)
    transform = make_transform(section, processor, train)
    pack = make_packer(section, model)
    columns = section.get("columns")
    prepared = [
        None if rows is None else Prepared(rows, Renamed(columns, transform) if columns else transform, pack)
        for rows in (train, test)
    ]
    options = section.get("collator")
    return Data(*prepared, None if options is None else collator_for(model.task, processor, **options))


def sources(section: dict[str, Any]) -> tuple[Any, Any]:
    """The rows to train on and those to evaluate on, if any."""
    train = read(section["train"], section)
    if "eval" in section:
        return train, read(section["eval"], section)
    held = section.get("eval_rows", 0)
    if not held:
        return train, None
    if not hasattr(train, "__len__") or len(train) <= held:
        raise ConfigError(f"eval_rows = {held} are held out of rows that are numbered, and of more than so many")
    # Spread over the whole, so that files that are sorted give both parts of everything; the same for every seed.
    order = np.random.default_rng(0).permutation(len(train))
    return Chosen(train, np.sort(order[held:])), Chosen(train, np.sort(order[:held]))


def read(where: Any, section: dict[str, Any]) -> Any:
    """The rows of files, of a folder of pictures or of a tfds dataset."""
    if isinstance(where, str) and where.startswith("tfds:"):
        name, _, split = where.removeprefix("tfds:").rpartition("/")
        return tfds_source(name, split) if name else tfds_source(split)
    if isinstance(where, str) and Path(where).is_dir():
        if any(path.suffix.lower() in SUFFIXES for path in Path(where).glob("*/*")):
            return ImageFolder(where)
        raise ConfigError(f"{where} is a folder without pictures by class: name files in it, such as {where}/*.jsonl")
    return read_rows(where, section.get("kind"), stream=section.get("stream", False))


def make_transform(section: dict[str, Any], processor: Any, rows: Any) -> Any:
    """What the section says of rows, or what they need: texts are tokenised, pictures processed, others left."""
    given = dict(section.get("transform", {}))
    pictures = isinstance(getattr(rows, "source", rows), ImageFolder)  # also where some rows are held out
    kind = given.pop("kind", None) or ("image" if pictures else None)
    if kind is None and processor is not None and "text" in first_fields(rows):
        kind = "text"
    if kind is None:
        return None
    if kind not in TRANSFORMS:
        raise ConfigError(f"[data.transform] has kind {kind!r}; {expected(kind, TRANSFORMS)}")
    if processor is None:
        raise ConfigError(f"[data.transform] of kind {kind!r} needs a processor: say [model] processor")
    if kind == "text":
        given = {"max_length": None if "pack" in section else section.get("length"), "end": "pack" in section, **given}
    try:
        return TRANSFORMS[kind](getattr(processor, "tokenizer", processor) if kind != "image" else processor, **given)
    except TypeError as error:
        raise ConfigError(f"[data.transform] of kind {kind!r}: {error}") from error


def first_fields(rows: Any) -> set[str]:
    """The names of the first row's fields, where rows have numbers."""
    return set(rows[0]) if hasattr(rows, "__getitem__") and len(rows) else set()


def make_packer(section: dict[str, Any], model: Any) -> Any:
    """The packer that the section names."""
    name = section.get("pack")
    if name is None:
        return None
    if name not in PACKERS:
        raise ConfigError(f"[data] pack = {name!r}; {expected(name, PACKERS)}")
    if "length" not in section:
        raise ConfigError("[data] pack fills rows of `length` tokens: say how many")
    shift = {"shift": 1 if model.task == "CausalLM" else 0} if name != "concat" else {}
    return PACKERS[name](section["length"], **shift)


class Renamed:
    """A transform of rows whose fields have other names."""

    def __init__(self, columns: dict[str, str], then: Any) -> None:
        self.columns, self.then = columns, then

    def __call__(self, row: Any) -> dict[str, Any]:
        new = {self.columns.get(name, name): value for name, value in row.items()}
        return new if self.then is None else self.then(new)


class Chosen:
    """Some rows of a source, by number."""

    def __init__(self, source: Any, numbers: np.ndarray) -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.source[int(self.numbers[index])]
