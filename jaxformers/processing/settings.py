"""What a tokenizer is besides its backend: the part of its files that tokenizer.json does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxformers.processing.padding import UNLIMITED


@dataclass
class Settings:
    """What a tokenizer is besides its backend; fields are spelled as in tokenizer_config.json."""

    named: dict[str, Any]  # special tokens by name, None when unset
    extra: list[Any]  # special tokens without a name
    class_name: str = "PreTrainedTokenizerFast"
    model_max_length: int = UNLIMITED
    padding_side: str = "right"
    truncation_side: str = "right"
    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    clean_up_tokenization_spaces: bool = False
    force_clean_up: bool = False  # also for BPE, where it damages the text
    split_special_tokens: bool = False
    add_bos_token: bool = False
    add_eos_token: bool = False
    chat_template: str | dict[str, str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # all of tokenizer_config.json and what replaced it
    word_end: str | None = None  # CLIP's mark of a word's end, a space once decoded
    name_or_path: str = ""
