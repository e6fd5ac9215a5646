"""Processors of pictures and texts together: CLIP, SigLIP, and LLaVA, whose text makes room for each picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxformers.core.errors import ConfigError, InputError
from jaxformers.processing.chat import choose_template
from jaxformers.processing.features import BatchFeature
from jaxformers.processing.images.load import flat_images
from jaxformers.processing.images.options import INERT
from jaxformers.processing.images.processor import ImageProcessor
from jaxformers.processing.processor import Processor, text_options

GROUPS = ("text_kwargs", "images_kwargs", "common_kwargs")


class VisionTextProcessor(Processor):
    """Pictures through the image processor and texts through the tokenizer, into one batch."""

    parts = ("image_processor", "tokenizer")
    image_processor: ImageProcessor

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        """Return what the model takes of pictures, of texts, or of both.

        Options are the tokenizer's and the image processor's by name, or in text_kwargs and images_kwargs. Raises
        InputError when neither is given, and TypeError for options that neither part has.
        """
        if images is None and text is None:
            raise InputError(f"{type(self).__name__} needs images, text, or both")
        for_text, for_images = self.divide(options)
        data: dict[str, Any] = {}
        pictures: Mapping[str, Any] = {}
        if images is not None:
            images = flat_images(images)
            pictures = self.image_processor(images, **for_images)
        if text is not None:
            text, checks = self.expanded(text, images, pictures)
            encoded = self.tokenizer(text, **for_text)
            checks(encoded["input_ids"])
            data |= encoded
        return BatchFeature({**data, **pictures})

    def divide(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options of the tokenizer and those of the image processor."""
        names, stored = text_options(self.tokenizer)
        known = {"text_kwargs": set(names), "images_kwargs": {*self.image_processor.option_names(), *INERT}}
        out: dict[str, dict[str, Any]] = {"text_kwargs": stored, "images_kwargs": {}}
        flat = {name: value for name, value in options.items() if name not in GROUPS}
        if unknown := [name for name in flat if not any(name in group for group in known.values())]:
            raise TypeError(f"neither the tokenizer nor the image processor has the option {', '.join(unknown)}")
        for group, own in out.items():
            grouped = dict(options.get(group) or {})
            if twice := [name for name in grouped if name in flat and name in known[group]]:
                raise TypeError(f"{', '.join(twice)} is given twice, by itself and in {group}")
            shared = {**(options.get("common_kwargs") or {}), **flat}
            own |= {name: value for name, value in shared.items() if name in known[group]} | grouped
        return out["text_kwargs"], out["images_kwargs"]

    def expanded(self, text: Any, images: Any, pictures: Mapping[str, Any]) -> tuple[Any, Any]:
        """The text with room for the pictures, and a function that checks the ids made of it."""
        return text, lambda ids: None


class CLIPProcessor(VisionTextProcessor):
    """CLIP's pictures and texts."""


class SiglipProcessor(VisionTextProcessor):
    """SigLIP's pictures and texts."""


class LlavaProcessor(VisionTextProcessor):
    """LLaVA's pictures and texts: `<image>` becomes as many tokens as the language model sees of the picture."""

    options = ("patch_size", "vision_feature_select_strategy", "image_token", "num_additional_image_tokens")

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Any,
        *,
        chat_template: Any = None,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
    ):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_size = patch_size
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.image_token = getattr(tokenizer, "image_token", None) or image_token
        self.num_additional_image_tokens = num_additional_image_tokens
        ids = tokenizer.encode(self.image_token, add_special_tokens=False)
        self.image_token_id = ids[0] if len(ids) else None

    def tokens_of(self, height: int, width: int) -> int:
        """How many tokens a picture of this size, after preprocessing, is to the language model."""
        if not self.patch_size:
            raise ConfigError("LlavaProcessor needs patch_size, that of the vision tower: processor.patch_size = 14")
        found = (height // self.patch_size) * (width // self.patch_size) + self.num_additional_image_tokens
        return found - (self.vision_feature_select_strategy == "default")

    def expanded(self, text: Any, images: Any, pictures: Mapping[str, Any]) -> tuple[list[str], Any]:
        """The texts with each `<image>` repeated for its picture; a check that no id of them was cut off."""
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(item, str) for item in texts):
            raise InputError("LlavaProcessor takes a text or a list of texts")
        found, given = sum(item.count(self.image_token) for item in texts), 0 if images is None else len(images)
        if found != given:
            raise InputError(f"the texts hold {found} {self.image_token} for {given} images: write one for each image")
        sizes = [picture.shape[-2:] for picture in pictures.get("pixel_values", ())]
        counts = iter(self.tokens_of(*size) for size in sizes)
        texts = [re.sub(re.escape(self.image_token), lambda _: self.image_token * next(counts), item) for item in texts]

        def check(ids: Any) -> None:
            for row, item in zip(ids, texts, strict=False):
                kept, wanted = list(row).count(self.image_token_id), item.count(self.image_token)
                if kept != wanted:
                    raise InputError(
                        f"{kept} of {wanted} image tokens are left after truncation: raise max_length or pass "
                        "truncation=False"
                    )

        return texts, check

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Render a conversation, or a batch of them; with tokenize=True also read its pictures and encode both.

        Options are the tokenizer's apply_chat_template's (add_generation_prompt, tools, ...). Returns the text, the
        ids, or with return_dict=True all inputs of the model.
        """
        if options.pop("return_assistant_tokens_mask", False):
            raise ValueError("return_assistant_tokens_mask is the tokenizer's alone: pictures move what it marks")
        conversations, batched = with_pictures(conversation)
        own = choose_template(self.chat_template, chat_template)
        texts = self.tokenizer.apply_chat_template(conversations, chat_template=own, tokenize=False, **options)
        if not tokenize:
            return texts if batched else texts[0]
        asked = dict(processor_kwargs or {})
        if return_tensors is not None:
            asked["return_tensors"] = return_tensors
        if self.tokenizer.bos_token is not None and texts[0].startswith(self.tokenizer.bos_token):
            asked["add_special_tokens"] = False  # the template wrote them
        images = [image for messages in conversations for image in pictures_of(messages)]
        batch = self(images=images or None, text=texts, **asked)
        return batch if return_dict else batch["input_ids"]


def with_pictures(conversation: Any) -> tuple[list[list[dict[str, Any]]], bool]:
    """Conversations with OpenAI's `image_url` blocks spelled as `image` blocks, and whether a batch was given."""
    batched = bool(conversation) and isinstance(conversation[0], list | tuple)
    chats = conversation if batched else [conversation]
    return [[{**message, "content": blocks(message.get("content"))} for message in chat] for chat in chats], batched


def blocks(content: Any) -> Any:
    """A message's content with every picture in an `image` block."""
    if not isinstance(content, list | tuple):
        return content
    out = []
    for block in content:
        if isinstance(block, Mapping) and block.get("type") == "image_url" and "image_url" in block:
            address = block["image_url"]
            block = {"type": "image", "url": address.get("url", "") if isinstance(address, Mapping) else address}
        out.append(block)
    return out


def pictures_of(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The pictures that a conversation holds, in order."""
    lists = [m["content"] for m in messages if isinstance(m.get("content"), list | tuple)]
    found = [
        block for content in lists for block in content if isinstance(block, Mapping) and block.get("type") == "image"
    ]
    return [block[key] for block in found for key in ("image", "url", "path", "base64") if key in block]
