"""Folders without tokenizer.json: vocabulary files trained here, as old checkpoints hold them."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, pre_tokenizers

from tests.processing.zoo import BERT, CHAT, END, added, byte_level, corpus, word_piece


@cache
def sentencepiece_file(kind: str, **options: Any) -> bytes:
    """Train a SentencePiece model and return the file's bytes."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()[::4] + corpus()[-30:]),
        model_writer=out,
        model_type=kind,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        **{"vocab_size": 420, "num_sub_iterations": 1, "max_sentence_length": 400, **options},
    )
    return out.getvalue()


def unigram(**options: Any) -> Callable[[], bytes]:
    """A unigram model, trained when it is needed."""
    return lambda: sentencepiece_file("unigram", **options)


def bpe(**options: Any) -> Callable[[], bytes]:
    """A BPE model with bytes for unknown letters, trained when it is needed."""
    return lambda: sentencepiece_file("bpe", **{"byte_fallback": True, "vocab_size": 900, **options})


@cache
def trained(kind: str, *special: str) -> Tokenizer:
    """A tokenizer of `tokenizers`: "words", "bytes" or "clip"."""
    if kind == "words":
        return word_piece(list(special))
    return byte_level(list(special), suffix="</w>" if kind == "clip" else "")


def tiktoken_file() -> bytes:
    """The byte-level vocabulary's lines of base64 and rank: bytes first, then in the order of the merges."""
    model = json.loads(trained("bytes").to_str())["model"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(letters) - {chr(byte) for byte in printing})
    byte_of = {chr(byte): byte for byte in printing}
    byte_of |= dict(zip(others, (byte for byte in range(256) if byte not in printing), strict=True))
    words = [*sorted(letters), *("".join(pair) for pair in model["merges"])]
    lines = [base64.b64encode(bytes(byte_of[letter] for letter in word)) for word in dict.fromkeys(words)]
    return b"".join(b"%s %d\n" % (line, rank) for rank, line in enumerate(lines))


@dataclass(frozen=True)
class Folder:
    """One folder: its config, the model type, and the files with its vocabulary."""

    config: dict[str, Any]
    model_type: str | None
    files: dict[str, Callable[[], bytes]]
    others: dict[str, Any] = field(default_factory=dict)


def words(*special: str) -> dict[str, Callable[[], bytes]]:
    """vocab.txt of word pieces."""

    def text() -> bytes:
        vocabulary = trained("words", *special).get_vocab()
        return "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.__getitem__)).encode()

    return {"vocab.txt": text}


def pairs(*special: str, kind: str = "bytes") -> dict[str, Callable[[], bytes]]:
    """vocab.json and merges.txt of a byte-level BPE."""

    def model() -> dict[str, Any]:
        return json.loads(trained(kind, *special).to_str())["model"]

    return {
        "vocab.json": lambda: json.dumps(model()["vocab"]).encode(),
        "merges.txt": lambda: "\n".join(["#version: 0.2", *map(" ".join, model()["merges"]), ""]).encode(),
    }


MPNET = ("[UNK]", "<s>", "</s>", "<pad>", "<mask>")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
ALBERT = {"control_symbols": "[CLS],[SEP],[MASK]", "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
DEBERTA = {"control_symbols": "[SEP],[MASK]", "pad_id": 0, "unk_id": 3, "bos_id": 1, "eos_id": 2} | {
    "pad_piece": "[PAD]",
    "unk_piece": "[UNK]",
    "bos_piece": "[CLS]",
    "eos_piece": "</s>",
}
T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
GEMMA = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "eos_piece": "<eos>", "bos_piece": "<bos>"}
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

FOLDERS: dict[str, Folder] = {
    "bert": Folder({}, "bert", words(*BERT)),
    "bert-cased": Folder({"do_lower_case": False, "tokenizer_class": "BertTokenizer"}, "bert", words(*BERT)),
    "bert-options": Folder(
        {"strip_accents": False, "tokenize_chinese_chars": False, "never_split": ["[UNK]"], "model_max_length": 24},
        "bert",
        words(*BERT),
        {"special_tokens_map.json": {"mask_token": added("[MASK]", lstrip=True), "pad_token": "[PAD]"}},
    ),
    "distilbert": Folder({"tokenizer_class": "DistilBertTokenizer"}, "distilbert", words(*BERT)),
    "electra": Folder({"strip_accents": True}, "electra", words(*BERT)),
    "mpnet": Folder({"mask_token": "<mask>", "do_lower_case": True}, "mpnet", words(*MPNET)),
    "gpt2": Folder({"model_max_length": 24}, "gpt2", pairs(END)),
    "gpt2-prefix": Folder({"add_prefix_space": True, "add_bos_token": True}, "gpt2", pairs(END)),
    "opt": Folder(
        {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False, "errors": "replace"},
        "opt",
        pairs(*ROBERTA),
        {
            "special_tokens_map.json": {
                "bos_token": added("</s>", normalized=True),
                "eos_token": added("</s>", normalized=True),
                "unk_token": added("</s>", normalized=True),
                "pad_token": added("<pad>", normalized=True),
            }
        },
    ),
    "roberta": Folder({}, "roberta", pairs(*ROBERTA)),
    "roberta-map": Folder(
        {"add_prefix_space": True, "trim_offsets": False},
        "roberta",
        pairs(*ROBERTA),
        {"special_tokens_map.json": {"mask_token": added("<mask>", lstrip=True)}, "added_tokens.json": {"<new>": 900}},
    ),
    "bart": Folder({"model_max_length": 1024}, "bart", pairs(*ROBERTA)),
    "clip": Folder({"errors": "replace", "do_lower_case": True}, "clip", pairs("<|startoftext|>", END, kind="clip")),
    "qwen2": Folder(
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "added_tokens_decoder": {
                "900": added(END, special=True),
                "901": added("<|im_start|>", special=True),
                "902": added("<|im_end|>", special=True),
                "903": added("<tool_call>"),
            },
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "eos_token": "<|im_end|>",
            "bos_token": None,
            "add_bos_token": False,
        },
        "qwen3",
        pairs(),
    ),
    "neox": Folder({}, "gpt_neox", pairs(END, "<|padding|>")),
    "mamba": Folder({"tokenizer_class": "GPTNeoXTokenizer", "add_bos_token": True}, "mamba", pairs(END)),
    "deberta": Folder({"do_lower_case": False}, "deberta", pairs("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")),
    "albert": Folder({}, "albert", {"spiece.model": unigram(**ALBERT)}),
    "albert-accents": Folder(
        {"keep_accents": True, "do_lower_case": False, "mask_token": added("[MASK]", lstrip=True, __type="AddedToken")},
        "albert",
        {"spiece.model": unigram(**ALBERT, normalization_rule_name="nfkc_cf")},
    ),
    "xlm-roberta": Folder({}, "xlm-roberta", {"sentencepiece.bpe.model": unigram()}),
    "xlm-roberta-mask": Folder(
        {"tokenizer_class": "XLMRobertaTokenizer", "mask_token": added("<mask>", lstrip=True, __type="AddedToken")},
        "xlm-roberta",
        {"sentencepiece.bpe.model": unigram(normalization_rule_name="identity", user_defined_symbols="<tool>,[ONE]")},
        {"special_tokens_map.json": {"additional_special_tokens": ["<map>"]}},
    ),
    "t5": Folder({"extra_ids": 10}, "t5", {"spiece.model": unigram(**T5)}),
    "t5-listed": Folder(
        {"additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)], "legacy": False},
        "t5",
        {"spiece.model": unigram(**T5, user_defined_symbols="<tool>")},
    ),
    "deberta-v2": Folder({"vocab_type": "spm"}, "deberta-v2", {"spm.model": unigram(**DEBERTA)}),
    "deberta-v2-punctuation": Folder(
        {"split_by_punct": True, "do_lower_case": True, "add_prefix_space": False},
        "deberta-v2",
        {"spm.model": unigram(**DEBERTA)},
        {"added_tokens.json": {"[NEW]": 420}},
    ),
    "llama": Folder(
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **LLAMA, "legacy": False},
        "llama",
        {"tokenizer.model": bpe(normalization_rule_name="identity")},
    ),
    "llama-legacy": Folder(
        {
            "tokenizer_class": "LlamaTokenizerFast",
            "legacy": True,
            "add_bos_token": True,
            "add_eos_token": True,
            "use_default_system_prompt": True,
            "pad_token": "<unk>",
            "spaces_between_special_tokens": False,
        },
        "llama",
        {"tokenizer.model": bpe(user_defined_symbols="<tool>,  ")},
    ),
    "llama-plain": Folder({"add_prefix_space": False}, "llama", {"tokenizer.model": bpe(byte_fallback=False)}),
    "deepseek": Folder(
        {"tokenizer_class": "LlamaTokenizer", **LLAMA, "add_prefix_space": False},
        "deepseek_v3",
        {"tokenizer.model": bpe(add_dummy_prefix=False, remove_extra_whitespaces=False)},
    ),
    "gemma": Folder(
        {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True},
        "gemma2",
        {"tokenizer.model": bpe(**GEMMA, user_defined_symbols="<mask>,<start_of_turn>,\t")},
    ),
    "mistral": Folder(
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "additional_special_tokens": [],
            "added_tokens_decoder": {"0": added("<unk>"), "1": added("<s>"), "5": added("[INST]", special=True)},
        },
        "mistral",
        {"tokenizer.model": bpe(user_defined_symbols="<placeholder_1>,<placeholder_2>,<placeholder_3>")},
    ),
    "phi3": Folder({"tokenizer_class": "LlamaTokenizer", **LLAMA}, "phi3", {"tokenizer.model": bpe()}),
    "generic-unigram": Folder(
        {"tokenizer_class": "PreTrainedTokenizerFast"}, None, {"tokenizer.model": unigram(byte_fallback=True)}
    ),
    "llama3-tiktoken": Folder(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "added_tokens_decoder": {
                "902": added("<|begin_of_text|>", special=True),
                "905": added("<|eot_id|>", special=True),
            },
        },
        "llama",
        {"tokenizer.model": tiktoken_file},
    ),
    "llama3-bos": Folder(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": True,
            "bos_token": CHAT[3],
            "additional_special_tokens": CHAT,
        },
        "llama",
        {"tiktoken.model": tiktoken_file},
    ),
}


def write_folder(path: Path, folder: Folder) -> Path:
    """Save one of the folders."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in folder.files.items():
        (path / name).write_bytes(content())
    texts = {"tokenizer_config.json": folder.config, **folder.others}
    if folder.model_type:
        texts["config.json"] = {"model_type": folder.model_type}
    for name, value in texts.items():
        (path / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path
