"""A Whisper tokenizer with all languages and time stamps, over a small trained vocabulary."""

import json
from pathlib import Path

from tokenizers import AddedToken

from jaxformers.processing.whisper_languages import LANGUAGES
from tests.processing.zoo import END, byte_level

TASKS = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
SPECIAL = ["<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES), *TASKS]
STAMPS = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
SPELLINGS = {"colour": "color", "grey": "gray", "organised": "organized"}


def write_whisper(folder: Path, stamps: bool = True, **config) -> Path:
    """Write the folder as openai/whisper-tiny's is."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level([])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in [END, *SPECIAL]])
    if stamps:
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in STAMPS])
    tokenizer.save(str(folder / "tokenizer.json"))
    options = {
        "tokenizer_class": "WhisperTokenizer",
        "additional_special_tokens": [END, *SPECIAL],
        "pad_token": END,
        "model_max_length": 1024,
        "return_attention_mask": False,
        "errors": "replace",
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(options), encoding="utf-8")
    (folder / "normalizer.json").write_text(json.dumps(SPELLINGS), encoding="utf-8")
    return folder
