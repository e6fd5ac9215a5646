"""Folders of tokenizers that have no tokenizer.json: bytes, characters and letters of speech."""

import json
from pathlib import Path
from typing import Any

from tests.processing.zoo import added

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
PHONES = ["<pad>", "<unk>", " ", "aɪ", "tʃ", "a", "t", "ʃ", "ɪ", "n", "[UNK]", "é", "ß"]
LANGUAGES = {
    "eng": {letter: i for i, letter in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh-"])},
    "deu": {letter: i for i, letter in enumerate(["<pad>", "</s>", "<unk>", "<s>", "ä", "|", *"efghabcd", "sch"])},
}


def ids(letters: list[str]) -> dict[str, int]:
    """Letters numbered in order."""
    return {letter: i for i, letter in enumerate(letters)}


# Folder: the files that lie in it, beside config.json.
PYTHON_ZOO: dict[str, dict[str, Any]] = {
    "byt5": {"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}, "config.json": {"model_type": "t5"}},
    "byt5-few": {
        "tokenizer_config.json": {
            "tokenizer_class": "ByT5Tokenizer",
            "extra_ids": 3,
            "additional_special_tokens": ["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"],
            "eos_token": {"__type": "AddedToken", **added("<end>", rstrip=True)},
            "model_max_length": 12,
            "truncation_side": "left",
        },
        "config.json": {"model_type": "byt5"},
    },
    "byt5-added": {
        "tokenizer_config.json": {
            "tokenizer_class": "ByT5Tokenizer",
            "extra_ids": 0,
            "padding_side": "left",
            "added_tokens_decoder": {
                "0": added("<pad>", special=True),
                "1": added("</s>", special=True, lstrip=True),
                "2": added("<unk>", special=True),
                "259": added("word", single_word=True, special=False),
                "260": added("<tool>", lstrip=True, rstrip=True, special=True),
                "261": added("<tool>x", special=False),
            },
        },
    },
    "canine": {"tokenizer_config.json": {"tokenizer_class": "CanineTokenizer"}},
    "canine-short": {
        "tokenizer_config.json": {"model_max_length": 9, "cls_token": "\ue002"},
        "config.json": {"model_type": "canine"},
    },
    "ctc": {
        "vocab.json": ids(LETTERS),
        "tokenizer_config.json": {"do_lower_case": True, "clean_up_tokenization_spaces": True},
        "special_tokens_map.json": {"bos_token": "<s>", "unk_token": "<unk>"},
        "config.json": {"model_type": "wav2vec2"},
    },
    "ctc-phones": {
        "vocab.json": ids(PHONES),
        "tokenizer_config.json": {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "word_delimiter_token": " ",
            "replace_word_delimiter_char": "_",
            "unk_token": "[UNK]",
        },
    },
    "ctc-languages": {
        "vocab.json": LANGUAGES,
        "tokenizer_config.json": {"tokenizer_class": "Wav2Vec2CTCTokenizer", "target_lang": "deu"},
        "config.json": {"model_type": "wav2vec2"},
    },
}


def write_python(folder: Path, files: dict[str, Any]) -> Path:
    """Write one of these folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder
