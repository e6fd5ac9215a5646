"""What transformers' tokenizer classes do to a tokenizer.json: transformers 5 rebuilds the pipeline of many of them.

A class that is not listed here takes tokenizer.json as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from jaxformers.processing.tokenizer import Tokenizer as OurTokenizer

TYPED_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
BYTE_BPE = {"dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""} | {
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
END = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """How a tokenizer class treats its files; `model` None means that tokenizer.json is taken as it is."""

    model: str | None = None  # the kind of model whose pipeline the class rebuilds
    model_options: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, str | None] = field(default_factory=dict)  # special tokens when the files name none
    rebuild: Callable[[Tokenizer, Mapping[str, Any]], None] | None = None
    finish: Callable[[OurTokenizer], None] | None = None  # once special tokens have ids
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: str = "right"
    word_end: str | None = None


def _bert(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")


def _lowercase_bert(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    _bert(backend, {**options, "do_lower_case": True})  # the class stores the option and never uses it


def _byte_level(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(options.get("add_prefix_space", False)))
    backend.decoder = decoders.ByteLevel()


def _neox(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    _byte_level(backend, options)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=options.get("add_prefix_space", False), trim_offsets=options.get("trim_offsets", True)
    )


def _qwen(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    prefix = bool(options.get("add_prefix_space"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()


def _cohere(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    prefix = options.get("add_prefix_space", False)
    backend.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, trim_offsets=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    backend.decoder = decoders.ByteLevel()


def _clip(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(CLIP_SPLIT), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()


def _llama(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    prefix = options.get("add_prefix_space")
    prefix = True if prefix is None else prefix
    # Legacy Llama puts the space before every piece of text, also after a special token.
    scheme = ("always" if options.get("legacy", False) else "first") if prefix else "never"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *([decoders.Strip(content=" ", left=1)] if prefix else [])])


def _gemma(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def _metaspace_words(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    scheme = "always" if options.get("add_prefix_space", True) else "never"
    backend.normalizer = _precompiled(backend)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)


def _t5(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    _metaspace_words(backend, {})


def _precompiled(backend: Tokenizer) -> Any:
    """Return the SentencePiece table among the file's normalizers: the only one a rebuilt Unigram keeps."""
    found: Any = backend.normalizer
    steps: Any = found if isinstance(found, normalizers.Sequence) else [found]
    return next((step for step in steps if isinstance(step, normalizers.Precompiled)), None)


def _around_cls_sep(tokenizer: OurTokenizer) -> None:
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )


def _roberta_ends(tokenizer: OurTokenizer) -> None:
    options = tokenizer.options
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        (tokenizer.sep_token, tokenizer.sep_token_id),
        (tokenizer.cls_token, tokenizer.cls_token_id),
        options.get("trim_offsets", True),
        options.get("add_prefix_space", False),
    )


def _mpnet_ends(tokenizer: OurTokenizer) -> None:
    sep, cls = (tokenizer.sep_token, tokenizer.sep_token_id), (tokenizer.cls_token, tokenizer.cls_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(sep, cls, True, False)


def _clip_ends(tokenizer: OurTokenizer) -> None:
    eos, bos = (tokenizer.eos_token, tokenizer.eos_token_id), (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(eos, bos, False, False)


def _xlm_roberta_ends(tokenizer: OurTokenizer) -> None:
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, eos, "$B", eos],
        special_tokens=[(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)],
    )


def _t5_ends(tokenizer: OurTokenizer) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", tokenizer.eos_token_id)]
    )


def _all_special(tokenizer: OurTokenizer) -> None:
    tokenizer.add_tokens([AddedToken(token, special=True) for token in tokenizer.all_special_tokens])


def _bos_eos(tokenizer: OurTokenizer) -> None:
    tokenizer.update_post_processor()


def _names(*values: str | None) -> dict[str, str | None]:
    order = ("unk_token", "bos_token", "eos_token", "pad_token", "cls_token", "sep_token", "mask_token")
    return {name: value for name, value in zip(order, values, strict=False) if value != "-"}


_BERT_TOKENS = _names("[UNK]", "-", "-", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_TOKENS = _names("<unk>", "<s>", "</s>", "<pad>", "<s>", "</s>", "<mask>")
_BERT = Recipe("WordPiece", {}, _BERT_TOKENS, _bert, _around_cls_sep, TYPED_INPUTS)
_GPT2 = Recipe("BPE", BYTE_BPE, _names(END, END, END, None), _byte_level)
_LLAMA_MODEL = {"dropout": None, "unk_token": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
_LLAMA = Recipe("BPE", _LLAMA_MODEL, _names("<unk>", "<s>", "</s>"), _llama, padding_side="left")

_INFILL = {
    "prefix_token": "▁<PRE>",
    "middle_token": "▁<MID>",
    "suffix_token": "▁<SUF>",
    "eot_token": "▁<EOT>",
    "fill_token": "<FILL_ME>",
}

RECIPES: Mapping[str, Recipe] = {
    **dict.fromkeys(
        "Bert Electra LayoutLM MobileBert Lxmert SqueezeBert".split(),
        _BERT,
    ),
    **dict.fromkeys(
        ("DPRQuestionEncoder", "DPRContextEncoder"),
        Recipe("WordPiece", {}, _BERT_TOKENS, _lowercase_bert, _around_cls_sep, TYPED_INPUTS),
    ),
    "ConvBert": Recipe(inputs=TYPED_INPUTS),
    "DistilBert": Recipe("WordPiece", {}, _BERT_TOKENS, _bert, _around_cls_sep),
    "MPNet": Recipe(
        "WordPiece", {}, _names("[UNK]", "<s>", "</s>", "<pad>", "<s>", "</s>", "<mask>"), _bert, _mpnet_ends
    ),
    "GPT2": _GPT2,
    **dict.fromkeys(
        "Roberta Bart Longformer LED Mvp".split(),
        Recipe("BPE", BYTE_BPE, _ROBERTA_TOKENS, _byte_level, _roberta_ends),
    ),
    "GPTNeoX": Recipe("BPE", BYTE_BPE, _names(END, END, END, "<|padding|>"), _neox, _bos_eos),
    "Qwen2": Recipe("BPE", BYTE_BPE, _names(END, None, END, END), _qwen, _all_special),
    "Cohere": Recipe(
        "BPE",
        BYTE_BPE,
        _names("<UNK>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<PAD>", "<CLS>", "<SEP>", "<MASK_TOKEN>"),
        _cohere,
        _all_special,
        padding_side="left",
    ),
    "CLIP": Recipe(
        "BPE",
        BYTE_BPE | {"unk_token": END, "end_of_word_suffix": "</w>"},
        _names(END, "<|startoftext|>", END, END),
        _clip,
        _clip_ends,
        word_end="</w>",
    ),
    "Llama": _LLAMA,
    "Phi3": _LLAMA,
    "Gemma": Recipe(
        "BPE",
        _LLAMA_MODEL | {"unk_token": "<unk>"},
        _names("<unk>", "<bos>", "<eos>", "<pad>", "-", "-", "<mask>"),
        _gemma,
        padding_side="left",
    ),
    "XLMRoberta": Recipe("Unigram", {"unk_id": 3}, _ROBERTA_TOKENS, _metaspace_words, _xlm_roberta_ends),
    "T5": Recipe("Unigram", {"unk_id": 2}, _names("<unk>", "-", "</s>", "<pad>"), _t5, _t5_ends),
    "Deberta": Recipe(inputs=("input_ids", "attention_mask", "token_type_ids")),
    "DebertaV2": Recipe(inputs=("input_ids", "attention_mask", "token_type_ids")),
    "CodeLlama": Recipe(tokens=_INFILL, padding_side="left"),
    "Siglip2": Recipe(padding_side="left"),
    "XLNet": Recipe(padding_side="left"),
    "FNet": Recipe(inputs=("input_ids", "token_type_ids")),
}
AS_WRITTEN = Recipe()
