"""A tokenizer of whole words with every special token that collators ask for."""

import json
from pathlib import Path

import tokenizers

import jaxformers as jf
from jaxformers.processing import Tokenizer

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "##teen", "."]
NAMED = {
    "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "mask_token": "<mask>",
}  # fmt: skip


def word_tokenizer(folder: Path) -> Tokenizer:
    """Save a tokenizer that ends texts with </s>, and load it."""
    special = [*NAMED.values(), *(f"<extra_id_{i}>" for i in range(12))]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    backend.add_special_tokens(special)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMED}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return jf.AutoTokenizer.from_pretrained(folder)
