"""Text generation: a prompt continued, or the next message of a conversation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.text_rows import rows_of
from jaxformers.pipelines.writing import WritingOptions, WritingPipeline, is_chat, prefilled, without_padding


@dataclass(frozen=True)
class GenerationOptions(WritingOptions):
    """return_full_text: whether the prompt is part of the result. return_tensors: ids instead of text."""

    return_full_text: bool = True
    return_text: bool | None = None
    return_tensors: bool | None = None
    clean_up_tokenization_spaces: bool | None = None
    skip_special_tokens: bool = True
    prefix: str = ""
    add_special_tokens: bool | None = None
    truncation: bool | str | None = None
    handle_long_generation: str | None = None
    continue_final_message: bool | None = None
    tools: Any = None
    documents: Any = None
    tokenizer_encode_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.handle_long_generation not in (None, "hole"):
            raise ValueError(f"handle_long_generation is {self.handle_long_generation!r}; expected None or 'hole'")


class TextGeneration(WritingPipeline):
    """A prompt, or a conversation of {"role", "content"}, to [{"generated_text"}], one for each returned sequence."""

    task = "text-generation"
    heads = ("CausalLM",)
    options = GenerationOptions
    usual = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}

    def is_one(self, inputs: Any) -> bool:
        return is_chat(inputs) or super().is_one(inputs)

    def prepare(self, item: Any, options: GenerationOptions) -> list[Row]:
        said = {"add_special_tokens": options.add_special_tokens, "truncation": options.truncation}
        chosen = {k: v for k, v in said.items() if v is not None} | dict(options.tokenizer_encode_kwargs)
        if is_chat(item):
            chosen.pop("add_special_tokens", None)
            open_end = prefilled(item, options.continue_final_message)
            encoded = self.tokenizer.apply_chat_template(
                [list(item)],
                add_generation_prompt=not open_end,
                continue_final_message=open_end,
                return_dict=True,
                tools=options.tools,
                documents=options.documents,
                **chosen,
            )
        elif isinstance(item, str):
            encoded = self.tokenizer([options.prefix + item], **chosen)
        else:
            raise ValueError(f"expected a prompt or a list of messages, found {type(item).__name__} {item!r:.60}")
        (row,) = rows_of({k: v for k, v in encoded.items() if k != "token_type_ids"})
        if not row.length:
            raise ValueError("the prompt gives no tokens; pass add_special_tokens=True or a longer prompt")
        return [row if options.handle_long_generation is None else self.cut(row, options)]

    def cut(self, row: Row, options: GenerationOptions) -> Row:
        """Cut a prompt on the left so that what will be written fits the model."""
        chosen = self.generate_options(options)
        new = chosen.get("max_new_tokens")
        if new is None:
            total = chosen.get("max_length", self.model.generation_config.max_length or 20)
            new = total - row.length
            if new < 0:
                raise ValueError("how many tokens will be written is unknown; pass max_new_tokens")
        keep = self.padding.longest - new
        if keep <= 0:
            raise ValueError(f"{new} new tokens leave no room for a prompt in {self.padding.longest}")
        return Row({k: v[-keep:] for k, v in row.inputs.items()}, row.note)

    def finish(
        self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: GenerationOptions
    ) -> list[dict[str, Any]]:
        c = self.model.generation_config
        prompt = [int(i) for i in rows[0].inputs["input_ids"]]
        records = []
        for sequence in np.asarray(outputs[0]["sequences"]):
            tokens = without_padding(sequence, c.pad_token_id, c.eos_token_id)
            if options.return_tensors:
                records.append({"generated_token_ids": prompt + tokens})
                continue
            text = self.tokenizer.decode(
                tokens,
                skip_special_tokens=options.skip_special_tokens,
                clean_up_tokenization_spaces=options.clean_up_tokenization_spaces,
            )
            records.append({"generated_text": self.joined(item, text, options) if options.return_full_text else text})
        return records

    def joined(self, item: Any, text: str, options: GenerationOptions) -> Any:
        """The prompt with what was written, or the conversation with its new message."""
        if isinstance(item, str):
            return item + text
        if prefilled(item, options.continue_final_message):
            return [*item[:-1], {**item[-1], "content": item[-1]["content"] + text}]
        return [*item, {"role": "assistant", "content": text}]
