"""Recordings and what was said in them: for CTC, and for encoder-decoder models."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.training.data.collate.arrays import stack
from jaxformers.training.data.collate.padding import IGNORED, Lengths, Rows, label_name, need, pad_stack


@dataclass(frozen=True)
class DataCollatorForSpeech:
    """Pads sounds and labels, each to its own length: rows of input_values [samples] or input_features, and labels.

    processor: a processor with a tokenizer, or the feature extractor. input_features [mels, frames] (Whisper) have
    equal shapes and are stacked; input_values, and features [frames, mels], are padded. buckets: lengths that sounds
    may have; pad_to_multiple_of_labels rounds those of labels.
    """

    processor: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    pad_to_multiple_of_labels: int | None = None
    buckets: tuple[int, ...] = field(default=(), kw_only=True)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        name = "input_values" if "input_values" in rows[0] else "input_features"
        need(rows, name)
        batch = self.sounds(rows, name)
        if (labels := label_name(rows)) is not None:
            need(rows, labels)
            sizes = Lengths(pad_to_multiple_of=self.pad_to_multiple_of_labels)
            batch["labels"] = self.labels(rows, labels, sizes.of([len(row[labels]) for row in rows]))
        return batch

    def sounds(self, rows: Rows, name: str) -> dict[str, np.ndarray]:
        """The sounds, with an attention mask where lengths differ or rows have one."""
        if len({np.shape(row[name]) for row in rows}) == 1 and not self.fixed:
            names = [n for n in (name, "attention_mask") if rows[0].get(n) is not None]
            return {n: stack(rows, n) for n in names}
        sizes = [len(row[name]) for row in rows]
        options = {"padding": self.padding, "max_length": self.max_length, "buckets": self.buckets}
        length = Lengths(**options, pad_to_multiple_of=self.pad_to_multiple_of).of(sizes)
        extractor = getattr(self.processor, "feature_extractor", self.processor)
        fill = getattr(extractor, "padding_value", 0.0)
        masks: Rows = [{"mask": row.get("attention_mask", np.ones(len(row[name]), np.int64))} for row in rows]
        return {name: pad_stack(rows, name, length, fill), "attention_mask": pad_stack(masks, "mask", length, 0)}

    @property
    def fixed(self) -> bool:
        """Whether lengths are more than the longest of the batch."""
        return bool(self.buckets) or self.padding == "max_length" or self.pad_to_multiple_of is not None

    def labels(self, rows: Rows, name: str, length: int) -> np.ndarray:
        """The labels, -100 at padding."""
        return pad_stack(rows, name, length, IGNORED)


@dataclass(frozen=True)
class DataCollatorForCTC(DataCollatorForSpeech):
    """For models that write letters for frames (wav2vec2)."""


@dataclass(frozen=True)
class DataCollatorForSpeechSeq2Seq(DataCollatorForSpeech):
    """For models whose decoder writes (Whisper): a start token that begins all labels is dropped, the loss adds it."""

    decoder_start_token_id: int | None = field(default=None, kw_only=True)

    def labels(self, rows: Rows, name: str, length: int) -> np.ndarray:
        """The labels without their common start, -100 at padding."""
        labels = pad_stack(rows, name, length, IGNORED)
        start = self.decoder_start_token_id
        return labels[:, 1:] if start is not None and length > 1 and (labels[:, 0] == start).all() else labels
