"""Collators: from rows to a batch of arrays, `list[dict] -> dict[str, np.ndarray]`; random ones also take `draws`."""

from jaxformers.training.data.collate.arrays import collate_arrays
from jaxformers.training.data.collate.choice import collator_for
from jaxformers.training.data.collate.denoising import DataCollatorForDenoising
from jaxformers.training.data.collate.images import DataCollatorForImageClassification
from jaxformers.training.data.collate.language_modeling import DataCollatorForLanguageModeling
from jaxformers.training.data.collate.objects import DataCollatorForObjectDetection
from jaxformers.training.data.collate.padding import (
    DataCollatorForMultipleChoice,
    DataCollatorForPairs,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
)
from jaxformers.training.data.collate.spans import DataCollatorForSpanCorruption, span_lengths
from jaxformers.training.data.collate.speech import DataCollatorForCTC, DataCollatorForSpeechSeq2Seq

__all__ = [
    "DataCollatorForCTC",
    "DataCollatorForDenoising",
    "DataCollatorForImageClassification",
    "DataCollatorForLanguageModeling",
    "DataCollatorForMultipleChoice",
    "DataCollatorForObjectDetection",
    "DataCollatorForPairs",
    "DataCollatorForSeq2Seq",
    "DataCollatorForSpanCorruption",
    "DataCollatorForSpeechSeq2Seq",
    "DataCollatorForTokenClassification",
    "DataCollatorWithPadding",
    "collate_arrays",
    "collator_for",
    "span_lengths",
]
