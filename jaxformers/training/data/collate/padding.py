"""Padding rows of tokens to one length of a batch: the longest row's, rounded up so that few shapes are compiled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.training.data.collate.arrays import RENAMED, as_array, is_text, stack
from jaxformers.training.data.rows import BadField

IGNORED = -100
Rows = Sequence[Mapping[str, Any]]
# Fields with an entry for each token, besides those that the tokenizer fills in its own way.
ZEROS = ("attention_mask", "position_ids", "segment_ids", "token_type_ids")
LABELS = ("labels", "label", "label_ids")


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """To which length the rows of a batch are padded.

    padding: True or "longest" (of the batch), "max_length", or False for rows that are equally long already.
    buckets: the only lengths a batch may have, such as (128, 256, 512); a longer batch is an error.
    """

    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    buckets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.padding == "max_length" and self.max_length is None:
            raise ValueError("padding='max_length' needs max_length")

    def of(self, lengths: Sequence[int]) -> int:
        """The batch's length. Raises BadField for a row that fits no bucket."""
        longest = max(lengths)
        if self.buckets:
            fitting = [size for size in self.buckets if size >= longest]
            if not fitting:
                place = int(np.argmax(lengths))
                raise BadField(place, "input_ids", f"has {longest} tokens, the largest bucket {max(self.buckets)}")
            return min(fitting)
        if self.padding == "max_length":
            longest = max(longest, self.max_length or 0)
        multiple = self.pad_to_multiple_of or 1
        return -(-longest // multiple) * multiple


def pad_stack(rows: Rows, name: str, length: int, fill: float, side: str = "right") -> np.ndarray:
    """One field of all rows, [rows, length, ...], filled up on one side."""
    arrays = [as_array(place, name, row[name]) for place, row in enumerate(rows)]
    kind = np.result_type(*arrays)
    kind = np.dtype(np.float32) if kind == np.float64 and any(array.size for array in arrays) else kind
    kind = np.dtype(np.int64) if kind.kind == "f" and not any(array.size for array in arrays) else kind  # all empty
    out = np.full((len(rows), length, *arrays[0].shape[1:]), fill, kind)
    for place, array in enumerate(arrays):
        if not array.size:
            continue
        if array.shape[1:] != out.shape[2:] or len(array) > length:
            raise BadField(place, name, f"has shape {array.shape}; expected at most {length} entries")
        row = out[place]
        row[: len(array)] = array if side == "right" else row[: len(array)]
        if side != "right":
            row[length - len(array) :] = array
    return out


def need(rows: Rows, name: str) -> None:
    """Raise BadField for the first row without a field."""
    for place, row in enumerate(rows):
        if row.get(name) is None:
            raise BadField(place, name, f"is missing; the row has {sorted(row)}")


@dataclass(frozen=True)
class DataCollatorWithPadding:
    """Pads what a tokenizer made, and stacks every other field that holds numbers; `label` becomes `labels`."""

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    buckets: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def lengths(self) -> Lengths:
        """How batches are padded."""
        return Lengths(
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            buckets=tuple(self.buckets),
        )

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        return self.inputs(rows)

    def fills(self) -> dict[str, int]:
        """What is put at padding, by field."""
        tokenizer = self.tokenizer
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "padding needs a pad token and this tokenizer has none: set tokenizer.pad_token = tokenizer.eos_token"
            )
        own = {"input_ids": tokenizer.pad_token_id, "special_tokens_mask": 1, "offset_mapping": 0}
        return {**dict.fromkeys(ZEROS, 0), "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0), **own}

    def inputs(self, rows: Rows, without: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The batch without some fields, its tokens padded, with an attention mask where the model reads one."""
        need(rows, "input_ids")
        if self.wants_mask(rows):
            rows = [{**row, "attention_mask": np.ones(len(row["input_ids"]), np.int64)} for row in rows]
        length = self.lengths.of([len(row["input_ids"]) for row in rows])
        fills, out = self.fills(), {}
        for name, value in rows[0].items():
            if name in without or value is None or is_text(value):
                continue
            if name in fills:
                need(rows, name)
                out[name] = pad_stack(rows, name, length, fills[name], self.tokenizer.padding_side)
            else:
                out[RENAMED.get(name, name)] = stack(rows, name)
        return out

    def wants_mask(self, rows: Rows) -> bool:
        """Whether to make an attention mask: rows that are packed have segments instead."""
        absent = "attention_mask" not in rows[0] and "segment_ids" not in rows[0]
        return absent and "attention_mask" in self.tokenizer.model_input_names


def label_name(rows: Rows) -> str | None:
    """Under which name the rows hold labels; None when they hold none."""
    return next((name for name in LABELS if rows[0].get(name) is not None), None)


@dataclass(frozen=True)
class DataCollatorForTokenClassification(DataCollatorWithPadding):
    """As DataCollatorWithPadding, with labels for each token, -100 at padding."""

    label_pad_token_id: int = field(default=IGNORED, kw_only=True)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        name = label_name(rows)
        batch = self.inputs(rows, without=LABELS)
        if name is not None:
            need(rows, name)
            length = batch["input_ids"].shape[1]
            batch["labels"] = pad_stack(rows, name, length, self.label_pad_token_id, self.tokenizer.padding_side)
        return batch


@dataclass(frozen=True)
class DataCollatorForSeq2Seq(DataCollatorWithPadding):
    """Pads inputs and labels, each to its own length, labels and decoder inputs on the inputs' side too.

    label_buckets: the lengths labels may have. Losses make decoder_input_ids of labels where there are none, so that
    `model`, which transformers' collator asks, is taken and not needed.
    """

    model: Any = field(default=None, kw_only=True, repr=False, compare=False)
    label_pad_token_id: int = field(default=IGNORED, kw_only=True)
    label_buckets: tuple[int, ...] = field(default=(), kw_only=True)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        written = ("decoder_input_ids", "decoder_attention_mask", "decoder_segment_ids", "decoder_position_ids")
        batch = self.inputs(rows, without=(*LABELS, *written))
        fills = {label_name(rows): self.label_pad_token_id, "decoder_input_ids": self.tokenizer.pad_token_id}
        fills |= dict.fromkeys(written[1:], 0)
        given = [name for name in fills if name is not None and rows[0].get(name) is not None]
        if not given:
            return batch
        for name in given:
            need(rows, name)
        lengths = Lengths(pad_to_multiple_of=self.pad_to_multiple_of, buckets=self.label_buckets)
        if self.padding == "max_length" and not self.label_buckets:
            lengths = self.lengths
        length = lengths.of([len(row[name]) for row in rows for name in given])
        for name in given:
            batch[RENAMED.get(name, name)] = pad_stack(rows, name, length, fills[name], self.tokenizer.padding_side)
        return batch


@dataclass(frozen=True)
class DataCollatorForMultipleChoice(DataCollatorWithPadding):
    """Rows whose input_ids are a list for each choice: [rows, choices, length], labels [rows]."""

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        need(rows, "input_ids")
        choices = len(rows[0]["input_ids"])
        for place, row in enumerate(rows):
            if len(row["input_ids"]) != choices:
                raise BadField(place, "input_ids", f"has {len(row['input_ids'])} choices, the first row {choices}")
        inner = [name for name, value in rows[0].items() if value is not None and name in self.fills()]
        flat = [{name: row[name][i] for name in inner} for row in rows for i in range(choices)]
        batch = {name: x.reshape(len(rows), choices, *x.shape[1:]) for name, x in self.inputs(flat).items()}
        others = [name for name, value in rows[0].items() if name not in inner and value is not None]
        return batch | {RENAMED.get(n, n): stack(rows, n) for n in others if not is_text(rows[0][n])}


@dataclass(frozen=True)
class DataCollatorForPairs(DataCollatorWithPadding):
    """Texts and their partners for contrastive losses: fields with the prefixes `positive_` and `negative_`.

    Each of the texts, the positive and the negative ones has a length of its own. Fields without tokens, such as CLIP's
    pixel_values, are stacked.
    """

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        batch: dict[str, np.ndarray] = {}
        for prefix in ("", "positive_", "negative_"):
            part = [parted(row, prefix) for row in rows]
            if "input_ids" in part[0]:
                batch |= {prefix + name: x for name, x in self.inputs(part).items()}
            else:
                batch |= {prefix + n: stack(part, n) for n, value in part[0].items() if not is_text(value)}
        return batch


def parted(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A row's fields with a prefix, without it; for no prefix those that have none."""
    if prefix:
        return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    return {name: value for name, value in row.items() if not name.startswith(("positive_", "negative_"))}
