"""`AutoTokenizer`: tokenizers by Hub id or folder."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from jaxformers.hub.download import resolve
from jaxformers.processing.tokenizer import Tokenizer

# The files a tokenizer reads; config.json for the model type, which decides the rules of old checkpoints.
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("vocab.*", "target_vocab.json", "*.model", "*.spm", "*.tiktoken", "merges.txt", "normalizer.json"),
)


class AutoTokenizer:
    """Loads the tokenizer of any checkpoint, from tokenizer.json or from the vocabulary files of its class."""

    def __init__(self) -> NoReturn:
        raise TypeError("AutoTokenizer is not an object: call AutoTokenizer.from_pretrained(folder_or_hub_id)")

    @staticmethod
    def from_pretrained(
        source: str | os.PathLike,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Tokenizer:
        """Load a folder, a tokenizer.json or a Hub id; overrides replace keys of tokenizer_config.json.

        Raises CheckpointError when the source cannot be had, lacks the vocabulary, or holds a damaged file.
        """
        path = resolve(
            source,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            patterns=FILES,
            weights=False,
        )
        return Tokenizer.from_pretrained(path, **overrides)
