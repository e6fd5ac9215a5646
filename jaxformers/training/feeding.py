"""How a Trainer is fed: loaders of whole batches on the devices, and which fields of rows a model reads."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from jaxformers.core.sharding import Rules
from jaxformers.training.data import DataLoader, host_share, to_device
from jaxformers.training.data.collate import collate_arrays, collator_for
from jaxformers.training.losses import ClipLoss, PairLoss, SiglipLoss
from jaxformers.training.predicting import is_label

# What rows may hold for collators and samplers, beside labels and the model's arguments.
FOR_COLLATORS = {"label", "label_ids", "length", "special_tokens_mask"}
OF_PAIRS = ("positive_", "negative_")  # PairLoss's partners, before the arguments' names
COMPARING = (ClipLoss, SiglipLoss, PairLoss)  # every row counts in these, also one that only fills a batch


@dataclass(frozen=True)
class Prepared:
    """A dataset with what is done to it on the way to a batch: a transform of rows (a Tokenize), and packing."""

    source: Any
    transform: Callable[[Any], dict[str, Any]] | None = None
    pack: Any = None


@dataclass(frozen=True)
class Keeping:
    """A transform of rows, if any, and then only the fields that are known."""

    before: Callable | None
    known: frozenset[str]

    def __call__(self, row: Any) -> dict[str, Any]:
        return kept(row if self.before is None else self.before(row), self.known)

    def many(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Several rows at once, where the transform can."""
        many = getattr(self.before, "many", None)
        return [self(row) for row in rows] if many is None else [kept(row, self.known) for row in many(rows)]


class Delivered(NamedTuple):
    """A batch on the devices, and how many tokens of it this process read: all, and those that are not padding."""

    batch: dict[str, jax.Array]
    tokens: int
    real_tokens: int


def make_loader(trainer: Any, dataset: Any, rows: int, **options: Any) -> DataLoader:
    """A loader of `rows` rows of all processes, which puts batches on the devices; a DataLoader passes as it is.

    A collator that is the caller's own sees whole rows; the default ones do not see fields that no model reads.
    """
    mesh, rules, args = trainer.mesh, trainer.rules, trainer.args
    known = known_arguments(trainer) if args.remove_unused_columns else None
    place = partial(deliver, mesh=mesh, rules=rules, known=known)
    if isinstance(dataset, DataLoader):
        dataset.place, dataset.epochs = place, options["epochs"]
        return dataset
    index, count = (0, 1) if mesh is None else host_share(mesh, rules, rows)
    given = dataset if isinstance(dataset, Prepared) else Prepared(dataset)
    whole = known is None or trainer.own_collator
    return DataLoader(
        given.source,
        batch_size=rows,
        collate=trainer.data_collator,
        transform=given.transform if whole else Keeping(given.transform, frozenset(known | FOR_COLLATORS)),
        pack=given.pack,
        process_index=index,
        process_count=count,
        threads=args.dataloader_num_workers,
        prefetch=args.dataloader_prefetch_factor or 2,
        place=place,
        **options,
    )


def train_options(trainer: Any, dataset: Any) -> dict[str, Any]:
    """How the training data is read: order, seed, last rows, and no end."""
    args = trainer.args
    strategy = args.train_sampling_strategy
    return {
        "shuffle": strategy == "random",
        "group_by_length": strategy == "group_by_length",
        "lengths": column(dataset, args.length_column_name) if strategy == "group_by_length" else None,
        "seed": args.seed if args.data_seed is None else args.data_seed,
        "last": "drop" if args.dataloader_drop_last or isinstance(trainer.loss, COMPARING) else "fill",
        "epochs": None,
    }


def eval_options(trainer: Any) -> dict[str, Any]:
    """How data to evaluate is read: once, in order; the last batch is filled, or smaller where rows are compared."""
    comparing = trainer.has_loss and isinstance(trainer.loss, COMPARING)
    return {"last": "keep" if comparing else "fill", "epochs": 1}


def default_collator(task: str | None, processing_class: Any) -> Any:
    """The collator of the model's task, which pads by the tokenizer or processor; without one, fields are stacked."""
    return collate_arrays if processing_class is None else collator_for(task, processing_class)


def column(dataset: Any, name: str) -> np.ndarray | None:
    """A column of lengths, where the data has one by that name."""
    names = getattr(dataset, "column_names", None) or (dataset.keys() if isinstance(dataset, dict) else ())
    return np.asarray(dataset[name]) if name in names else None


def deliver(batch: dict[str, Any], mesh: Mesh | None, rules: Rules, known: set[str] | None = None) -> Delivered:
    """Count a batch's tokens and put it on the devices; runs in the loader's thread."""
    main = next((batch[name] for name in ("input_ids", "decoder_input_ids") if name in batch), None)
    tokens = 0 if main is None else int(np.size(main))
    mask = batch.get("attention_mask", batch.get("segment_ids"))
    counts = main is not None and mask is not None and np.shape(mask) == np.shape(main)
    return Delivered(
        to_device(kept(batch, known), mesh, rules), tokens, int(np.count_nonzero(mask)) if counts else tokens
    )


def kept(fields: dict[str, Any], known: set[str] | None) -> dict[str, Any]:
    """The fields of a row or a batch that are known, and all labels; everything where nothing is known."""
    return fields if known is None else {n: value for n, value in fields.items() if read(n, known)}


def read(name: str, known: set[str]) -> bool:
    """Whether a loss reads a field: as an argument of the model, also of a partner of the text, or as a label."""
    partner = next((name.removeprefix(prefix) for prefix in OF_PAIRS if name.startswith(prefix)), name)
    return partner in known or is_label(name)


def known_arguments(trainer: Any) -> set[str] | None:
    """The arguments of the model, and labels of other names; None where the model takes any keyword."""
    names = arguments_of(trainer.model.module)
    return None if names is None else names | set(trainer.args.label_names or ())


def arguments_of(module: nn.Module) -> set[str] | None:
    """The names that a module or what it wraps can be called with; None where it takes any, and wraps nothing known."""
    parameters = inspect.signature(type(module).__call__).parameters
    names = {name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD} - {"self"}
    if all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
        return names
    inner = [getattr(module, name, None) for name in ("backbone", "classifier", "encoder", "decoder")]
    found = [arguments_of(one) for one in inner if isinstance(one, nn.Module)]
    return None if not found or None in found else names.union(*found)  # type: ignore[arg-type]
