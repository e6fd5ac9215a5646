"""Which collator a task's rows need, for whoever names none."""

from typing import Any

from jaxformers.training.data.collate.arrays import collate_arrays
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
from jaxformers.training.data.collate.speech import DataCollatorForCTC, DataCollatorForSpeechSeq2Seq

BY_TASK = {
    "MaskedLM": DataCollatorForLanguageModeling,
    "Seq2SeqLM": DataCollatorForSeq2Seq,
    "TokenClassification": DataCollatorForTokenClassification,
    "MultipleChoice": DataCollatorForMultipleChoice,
    "CTC": DataCollatorForCTC,
    "SpeechSeq2Seq": DataCollatorForSpeechSeq2Seq,
    "ZeroShotImageClassification": DataCollatorForPairs,
}
OF_IMAGES = {
    "ImageClassification": DataCollatorForImageClassification,
    "ObjectDetection": DataCollatorForObjectDetection,
    "ImageSegmentation": DataCollatorForObjectDetection,
}


def collator_for(task: str | None, processing: Any = None, **options: Any) -> Any:
    """The collator for a task such as "MaskedLM" and a tokenizer or processor; `options` are its own.

    Without a tokenizer, and for tasks that are not of text, fields are stacked.
    """
    if task in ("CTC", "SpeechSeq2Seq"):
        return BY_TASK[task](processing, **options)
    if task in OF_IMAGES:
        return OF_IMAGES[task](**options)
    tokenizer = getattr(processing, "tokenizer", processing)
    if not hasattr(tokenizer, "pad_token_id"):
        return collate_arrays
    if task == "CausalLM":
        return DataCollatorForLabelledText(tokenizer, **options)
    return BY_TASK.get(task or "", DataCollatorWithPadding)(tokenizer, **options)


class DataCollatorForLabelledText(DataCollatorForLanguageModeling):
    """For causal models: labels that rows bring are padded, others are made of the tokens."""

    def __init__(self, tokenizer: Any, **options: Any) -> None:
        super().__init__(tokenizer, mlm=False, **options)

    def __call__(self, rows: Any, draws: Any = None) -> Any:
        if rows[0].get("labels") is None:
            return super().__call__(rows)
        options = {name: getattr(self, name) for name in ("padding", "max_length", "pad_to_multiple_of", "buckets")}
        return DataCollatorForTokenClassification(self.tokenizer, **options)(rows)
