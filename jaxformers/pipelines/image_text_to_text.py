"""Image-text-to-text: a vision-language model's answer to pictures and words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.writing import WritingOptions, WritingPipeline, is_chat, prefilled, without_padding
from jaxformers.processing.images.load import load_image


@dataclass(frozen=True)
class ImageTextOptions(WritingOptions):
    """return_full_text: whether the prompt is part of the result. return_tensors: ids instead of text."""

    return_full_text: bool = True
    return_tensors: bool | None = None
    clean_up_tokenization_spaces: bool | None = None
    skip_special_tokens: bool = True
    continue_final_message: bool | None = None
    timeout: float | None = None
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)


class ImageTextToText(WritingPipeline):
    """{"images", "text"}, or a conversation with pictures in it, to [{"input_text", "generated_text"}]."""

    task = "image-text-to-text"
    heads = ("ImageTextToText",)
    parts = ("processor",)
    options = ImageTextOptions
    usual = {"max_new_tokens": 256}

    def is_one(self, inputs: Any) -> bool:
        return is_chat(inputs) or super().is_one(inputs)

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
        """As every pipeline; images= and text= may be one picture and text, or lists of as many."""
        if images is None and text is None:
            raise ValueError("give images, text, or both")
        if text is None or images is None:
            return super().__call__(images if text is None else text, **options)
        if isinstance(text, (list, tuple)) and not is_chat(text):
            given = list(images)
            if len(given) != len(text):
                raise ValueError(f"there are {len(given)} images for {len(text)} texts; expected as many")
            return super().__call__([{"images": i, "text": t} for i, t in zip(given, text, strict=True)], **options)
        if is_chat(text):
            raise ValueError("with a conversation, pictures stand in its messages: {'type': 'image', 'url': ...}")
        return super().__call__({"images": images, "text": text}, **options)

    def prepare(self, item: Any, options: ImageTextOptions) -> list[Row]:
        if is_chat(item):
            open_end = prefilled(item, options.continue_final_message)
            given = self.processor.apply_chat_template(
                list(item),
                tokenize=True,
                return_dict=True,
                return_tensors="np",
                add_generation_prompt=not open_end,
                continue_final_message=open_end,
                **options.processor_kwargs,
            )
        else:
            text, images = (item, None) if isinstance(item, str) else (item.get("text"), item.get("images"))
            if not isinstance(text, str):
                raise ValueError(f"expected a text, found {type(text).__name__} {text!r:.60}")
            if images is not None:
                several = images if isinstance(images, (list, tuple)) else [images]
                images = [load_image(one, timeout=options.timeout) for one in several]
            given = self.processor(images=images, text=[text], return_tensors="np", **options.processor_kwargs)
        arrays = {k: np.asarray(v) for k, v in given.items() if k != "token_type_ids"}
        # A prompt may hold several pictures, so they keep an axis of their own within the row.
        return [Row({k: v if k == "pixel_values" else v[0] for k, v in arrays.items()})]

    def forward(self, batch: dict[str, Any], options: ImageTextOptions) -> Mapping[str, Any]:
        if "pixel_values" in batch:
            pixels = batch["pixel_values"]
            batch = {**batch, "pixel_values": pixels.reshape(-1, *pixels.shape[2:])}
        return super().forward({"input_ids": batch.pop("input_ids"), **batch}, options)

    def finish(
        self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: ImageTextOptions
    ) -> list[dict[str, Any]]:
        asked = item if isinstance(item, str) or is_chat(item) else item["text"]
        c = self.model.generation_config
        records = []
        for sequence in np.asarray(outputs[0]["sequences"]):
            tokens = without_padding(sequence, c.pad_token_id, c.eos_token_id)
            if options.return_tensors:
                ids = [*rows[0].inputs["input_ids"].tolist(), *tokens]
                records.append({"input_text": asked, "generated_token_ids": ids})
                continue
            text = self.tokenizer.decode(
                tokens,
                skip_special_tokens=options.skip_special_tokens,
                clean_up_tokenization_spaces=options.clean_up_tokenization_spaces,
            )
            whole = self.joined(asked, text, options) if options.return_full_text else text
            records.append({"input_text": asked, "generated_text": whole})
        return records

    def joined(self, asked: Any, text: str, options: ImageTextOptions) -> Any:
        """The prompt with what was written, or the conversation with its new message."""
        if isinstance(asked, str):
            return asked + text
        if not prefilled(asked, options.continue_final_message):
            return [*asked, {"role": "assistant", "content": text}]
        last = asked[-1]
        if isinstance(last["content"], str):
            return [*asked[:-1], {**last, "content": last["content"] + text}]
        *others, part = last["content"]
        return [*asked[:-1], {**last, "content": [*others, {**part, "text": part["text"] + text}]}]
