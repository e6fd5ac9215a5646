"""`AutoTokenizer`: tokenizers by Hub id or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxformers.hub.named import Named
from jaxformers.processing.tokenizer import Tokenizer

# The files a tokenizer reads; config.json for the model type, which decides the rules of old checkpoints.
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("vocab.*", "target_vocab.json", "*.model", "*.spm", "*.tiktoken", "merges.txt", "normalizer.json"),
)


class AutoTokenizer(Named[Tokenizer]):
    """Loads the tokenizer of any checkpoint, from tokenizer.json or from the vocabulary files of its class."""

    files = FILES

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> Tokenizer:
        """Load from a local folder or tokenizer.json; overrides replace keys of tokenizer_config.json.

        Raises CheckpointError when it lacks the vocabulary, or holds a damaged file.
        """
        return Tokenizer.from_pretrained(path, **overrides)
