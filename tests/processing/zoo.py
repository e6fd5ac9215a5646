"""Tokenizers trained on the Python standard library's own source, saved as folders for both libraries to load."""

import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SOURCES = ("argparse", "textwrap", "unittest/mock", "turtle", "datetime", "calendar")
END = "<|endoftext|>"
CHAT = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@lru_cache(maxsize=1)
def corpus() -> list[str]:
    """Lines of the standard library, with some text of other scripts."""
    folder = Path(textwrap.__file__).parent
    lines = []
    for name in SOURCES:
        file = folder / f"{name}.py"
        if file.is_file():
            lines += file.read_text(encoding="utf-8").splitlines()[:1500]
    return (
        lines + ["Ünïcödé straße naïve", "Привет, мир!", "שלום עולם", "مرحبا بالعالم", "你好，世界", "こんにちは"] * 5
    )


def train(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    """Train in place and return the tokenizer."""
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def word_piece(special: list[str], lowercase: bool = True) -> Tokenizer:
    """BERT's pipeline; the second and third special tokens surround a text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=special[0]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    train(tokenizer, trainers.WordPieceTrainer(vocab_size=700, special_tokens=special, show_progress=False))
    cls, sep = special[1], special[2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.token_to_id(cls)), (sep, tokenizer.token_to_id(sep))],
    )
    return tokenizer


def byte_level(special: list[str], suffix: str = "") -> Tokenizer:
    """GPT-2's pipeline: every byte is a letter."""
    tokenizer = Tokenizer(models.BPE(**({"end_of_word_suffix": suffix} if suffix else {})))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return train(
        tokenizer,
        trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
            **({"end_of_word_suffix": suffix} if suffix else {}),
        ),
    )


def unigram(special: list[str]) -> Tokenizer:
    """A SentencePiece-like pipeline: spaces become a letter, the pieces have scores."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False, n_sub_iterations=1
    )
    tokenizer.train_from_iterator(corpus()[::8], trainer)  # this trainer is slow, and an eighth of the lines is enough
    return tokenizer


def byte_fallback(special: list[str]) -> Tokenizer:
    """Llama 2's pipeline: a text without spaces, unknown letters as bytes, BOS by a template."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # only to train quickly: words do not cross spaces
    train(tokenizer, trainers.BpeTrainer(vocab_size=900, special_tokens=special + BYTES, show_progress=False))
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    bos = "<bos>" if "<bos>" in special else "<s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    # Byte pieces are ordinary pieces: only the first tokens stay special.
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(spec))


@dataclass(frozen=True)
class Kind:
    """One tokenizer of the zoo: how it is trained and what its folder says."""

    build: Callable[[], Tokenizer]
    config: dict[str, Any]
    files: dict[str, Any] = field(default_factory=dict)


BERT = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
SENTENCE = ["<unk>", "<s>", "</s>", "<pad>", "<mask>"]
T5 = ["<pad>", "</s>", "<unk>"]
XLM = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def added(token: str, **flags: bool) -> dict[str, Any]:
    """The serialised form of an added token."""
    return {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} | flags


def with_lengths() -> Tokenizer:
    """A tokenizer.json with truncation and padding of its own, as sentence-transformers publishes them."""
    tokenizer = word_piece(BERT)
    tokenizer.enable_truncation(12, strategy="longest_first")
    tokenizer.enable_padding(length=16, pad_id=3, pad_token="[PAD]", direction="left")
    return tokenizer


def without_processor() -> Tokenizer:
    """A byte-level tokenizer that adds nothing to a text."""
    tokenizer = byte_level([END, "<pad>", *CHAT])
    tokenizer.post_processor = None
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True), AddedToken("word", single_word=True, rstrip=True)])
    return tokenizer


BOTH = {"bos_token": END, "eos_token": END, "unk_token": END, "pad_token": "<pad>"}

ZOO: dict[str, Kind] = {
    "bert": Kind(lambda: word_piece(BERT), {"tokenizer_class": "BertTokenizer", "do_lower_case": True}),
    "bert-cased": Kind(
        lambda: word_piece(BERT, lowercase=False),
        {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False, "model_max_length": 24},
        {"config.json": {"model_type": "bert"}},
    ),
    "bert-lengths": Kind(
        with_lengths,
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True, "model_max_length": 20},
        {
            "special_tokens_map.json": {
                "unk_token": "[UNK]",
                "mask_token": added("[MASK]", lstrip=True),
                "additional_special_tokens": ["[ONE]", "[TWO]"],
            }
        },
    ),
    "distilbert": Kind(lambda: word_piece(BERT), {"tokenizer_class": "DistilBertTokenizerFast"}),
    "mpnet": Kind(
        lambda: word_piece(["[UNK]", "<s>", "</s>", "<pad>", "<mask>"]),
        {"tokenizer_class": "MPNetTokenizer", "mask_token": "<mask>"},
    ),
    "gpt2": Kind(
        lambda: byte_level([END]), {"tokenizer_class": "GPT2Tokenizer", "pad_token": END, "add_bos_token": True}
    ),
    "gpt2-prefix": Kind(
        lambda: byte_level([END]),
        {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True, "truncation_side": "left", "pad_token": END},
    ),
    "byte-level": Kind(without_processor, {"tokenizer_class": "TokenizersBackend", "padding_side": "left", **BOTH}),
    "roberta": Kind(
        lambda: byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
        {
            "tokenizer_class": "RobertaTokenizer",
            "added_tokens_decoder": {
                "0": added("<s>", special=True, normalized=True),
                "1": added("<pad>", special=True),
                "2": added("</s>", special=True),
                "3": added("<unk>", special=True),
                "4": added("<mask>", special=True, lstrip=True),
            },
        },
    ),
    "neox": Kind(lambda: byte_level([END, "<|padding|>"]), {"tokenizer_class": "GPTNeoXTokenizer"}),
    "qwen": Kind(
        lambda: byte_level([END, *CHAT]),
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "eos_token": "<|im_end|>",
            "image_token": "<|image_pad|>",
        },
        {"config.json": {"model_type": "qwen3"}},
    ),
    "cohere": Kind(lambda: byte_level(["<PAD>", "<UNK>", "<BOS_TOKEN>"]), {"tokenizer_class": "CohereTokenizer"}),
    "clip": Kind(
        lambda: byte_level(["<|startoftext|>", END], suffix="</w>"),
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 24},
    ),
    "unigram": Kind(
        lambda: unigram(SENTENCE),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SENTENCE[:4], strict=True)),
        },
        {"added_tokens.json": {"<late>": 401, "<mask>": 400}},
    ),
    "xlm-roberta": Kind(lambda: unigram(XLM), {"tokenizer_class": "XLMRobertaTokenizer"}),
    "t5": Kind(lambda: unigram(T5), {"tokenizer_class": "T5Tokenizer", "extra_ids": 10}),
    "llama": Kind(
        lambda: byte_fallback(["<unk>", "<s>", "</s>"]),
        {"tokenizer_class": "LlamaTokenizer", "legacy": False, "pad_token": "</s>", "add_bos_token": True},
        {"config.json": {"model_type": "llama"}},
    ),
    "llama-legacy": Kind(
        lambda: byte_fallback(["<unk>", "<s>", "</s>"]),
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, "pad_token": "<unk>"},
    ),
    "mistral": Kind(
        lambda: byte_fallback(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]),
        {"tokenizer_class": "LlamaTokenizer", "pad_token": "</s>", "bos_token": "<s>", "eos_token": "</s>"},
        {"config.json": {"model_type": "mistral"}},
    ),
    "llama3": Kind(
        lambda: byte_level(["<|begin_of_text|>", *CHAT, "<|pad|>"]),
        {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": {"__type": "AddedToken", **added("<|begin_of_text|>")},
            "eos_token": "<|eot_id|>",
            "pad_token": "<|pad|>",
            "extra_special_tokens": {"header_token": "<|start_header_id|>"},
        },
        {"config.json": {"model_type": "llama"}},
    ),
    "gemma": Kind(
        lambda: byte_fallback(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]), {"tokenizer_class": "GemmaTokenizer"}
    ),
}


def write(folder: Path, kind: Kind) -> Path:
    """Save one tokenizer of the zoo as a checkpoint's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kind.build().save(str(folder / "tokenizer.json"))
    for name, content in {"tokenizer_config.json": kind.config, **kind.files}.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder
