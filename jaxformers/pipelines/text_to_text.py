"""Text to text: summaries, translations, and whatever else an encoder-decoder was trained to answer."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from jaxformers.pipelines.rows import Padding, Row
from jaxformers.pipelines.text_rows import text_row
from jaxformers.pipelines.writing import WritingOptions, WritingPipeline


@dataclass(frozen=True)
class TextToTextOptions(WritingOptions):
    """return_tensors: ids instead of text."""

    return_text: bool | None = None
    return_tensors: bool | None = None
    clean_up_tokenization_spaces: bool = False
    truncation: bool | str = False
    prefix: str | None = None
    src_lang: str | None = None
    tgt_lang: str | None = None


class TextToText(WritingPipeline):
    """A text to [{"generated_text"}]; for a list of texts one such dictionary each."""

    task = "text2text-generation"
    heads = ("Seq2SeqLM",)
    options = TextToTextOptions
    usual = {"max_new_tokens": 256, "num_beams": 4}
    name: ClassVar[str] = "generated"

    @property
    def padding(self) -> Padding:
        """What an encoder reads is padded on the right."""
        inner = super().padding
        return Padding(inner.values, inner.longest, "right", False)

    def task_settings(self) -> dict[str, Any]:
        """What the checkpoint's config says for this task (task_specific_params): a prefix, lengths, beams."""
        every = getattr(self.model.config, "task_specific_params", None) or self.model.config.extra.get(
            "task_specific_params"
        )
        return dict((every or {}).get(self.task_name, {}))

    @property
    def task_name(self) -> str:
        """The name under which configs keep this task's settings."""
        return self.task

    def prepare(self, item: Any, options: TextToTextOptions) -> list[Row]:
        if not isinstance(item, str):
            raise ValueError(f"expected a text, found {type(item).__name__} {item!r:.60}")
        prefix = options.prefix if options.prefix is not None else self.task_settings().get("prefix", "")
        row = text_row(self, prefix + item, truncation=options.truncation)
        return [Row({k: v for k, v in row.inputs.items() if k != "token_type_ids"})]

    def generate_options(self, options: Any) -> dict[str, Any]:
        if "generation_config" not in options.generate_kwargs:
            config = self.model.generation_config
            known = {k: v for k, v in self.task_settings().items() if k != "prefix" and hasattr(config, k)}
            options = replace(options, generate_kwargs={**known, **options.generate_kwargs})
        return super().generate_options(options)

    def prompt_length(self, batch: Any) -> int:
        return 0

    def finish(
        self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: TextToTextOptions
    ) -> list[dict[str, Any]]:
        records = []
        for tokens in np.asarray(outputs[0]["sequences"]):
            if options.return_tensors:
                records.append({f"{self.name}_token_ids": tokens})
                continue
            text = self.tokenizer.decode(
                tokens,
                skip_special_tokens=True,
                clean_up_tokenization_spaces=options.clean_up_tokenization_spaces,
            )
            records.append({f"{self.name}_text": text})
        return records

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """As every pipeline; a list of texts with one sequence each gives a flat list, as it does in transformers."""
        results = super().__call__(inputs, **options)
        if isinstance(inputs, (list, tuple)) and all(isinstance(r, list) and len(r) == 1 for r in results):
            return [r[0] for r in results]
        return results


class Summarization(TextToText):
    """A text to [{"summary_text"}]."""

    task = "summarization"
    name = "summary"


class Translation(TextToText):
    """A text to [{"translation_text"}]. Languages come from the task's name or from src_lang= and tgt_lang=."""

    task = "translation"
    name = "translation"

    @property
    def task_name(self) -> str:
        return f"translation_{self.defaults.src_lang}_to_{self.defaults.tgt_lang}"
