"""What transformers' tokenizer classes do to their files: transformers 5 rebuilds the pipeline of many of them.

A class that is not listed here takes tokenizer.json as it is, and cannot do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from jaxformers.core.errors import CheckpointError
from jaxformers.processing import tokenizer_pipelines as pipelines
from jaxformers.processing.special_tokens import as_token

if TYPE_CHECKING:
    from jaxformers.processing.tokenizer import Tokenizer as OurTokenizer

TYPED_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
TYPED_LAST = ("input_ids", "attention_mask", "token_type_ids")
BYTE_BPE = {"dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""} | {
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
END = "<|endoftext|>"
Scored = list[tuple[str, float]]  # pieces in the order of their ids, with their scores


@dataclass(frozen=True)
class Recipe:
    """How a tokenizer class treats its files; `model` None means that tokenizer.json is taken as it is.

    `adapt` sets fields of the model that depend on options; `arrange` puts a SentencePiece vocabulary, and the tokens
    that it declares, in the class's order.
    """

    model: str | None = None  # the kind of model whose pipeline the class rebuilds
    model_options: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, str | None] = field(default_factory=dict)  # special tokens when the files name none
    rebuild: Callable[[Tokenizer, Mapping[str, Any]], None] | None = None
    finish: Callable[[OurTokenizer], None] | None = None  # once special tokens have ids
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: str = "right"
    word_end: str | None = None
    adapt: Callable[[dict[str, Any], Mapping[str, Any]], None] | None = None
    sentencepiece: tuple[str, ...] = ()  # the files with its vocabulary, when that is a SentencePiece model
    arrange: Callable[[Scored, list[Any], Mapping[str, Any]], tuple[Scored, list[Any]]] | None = None
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)  # of special tokens that files give as text


def _names(*values: str | None) -> dict[str, str | None]:
    order = ("unk_token", "bos_token", "eos_token", "pad_token", "cls_token", "sep_token", "mask_token")
    return {name: value for name, value in zip(order, values, strict=False) if value != "-"}


def _unknown(model: dict[str, Any], options: Mapping[str, Any]) -> None:
    model["unk_token"] = str(as_token(options["unk_token"]))


def _word_piece(model: dict[str, Any], options: Mapping[str, Any]) -> None:
    _unknown(model, options)
    model["continuing_subword_prefix"] = "##"


def _deberta_unknown(model: dict[str, Any], options: Mapping[str, Any]) -> None:
    unknown = [str(as_token(options["unk_token"])), 0.0]
    model["unk_id"] = model["vocab"].index(unknown) if unknown in model["vocab"] else options.get("unk_id", 1)


def _with_sentinels(pieces: Scored, extra: list[Any], options: Mapping[str, Any]) -> tuple[Scored, list[Any]]:
    """Append T5's places to fill, the last first, unless the vocabulary has them."""
    count = options.get("extra_ids", 100)
    listed = sum("<extra_id_" in str(token) for token in extra)
    if listed and count > 0 and listed != count:
        raise CheckpointError(
            f"the vocabulary has {listed} tokens <extra_id_...> and extra_ids is {count}: make them equal"
        )
    names = [f"<extra_id_{i}>" for i in range(count)]
    return [*pieces, *((name, 0.0) for name in reversed(names))], extra if listed else [*extra, *names]


def _fairseq_order(pieces: Scored, extra: list[Any], options: Mapping[str, Any]) -> tuple[Scored, list[Any]]:
    """Put XLM-R's four special tokens in the place of the first three pieces, and the mask at the end."""
    first = [(str(as_token(options[f"{name}_token"])), 0.0) for name in ("bos", "pad", "eos", "unk")]
    return [*first, *pieces[3:], (str(as_token(options["mask_token"])), 0.0)], extra


_BERT_TOKENS = _names("[UNK]", "-", "-", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_TOKENS = _names("<unk>", "<s>", "</s>", "<pad>", "<s>", "</s>", "<mask>")
_BERT = Recipe("WordPiece", {}, _BERT_TOKENS, pipelines.bert, pipelines.around_cls_sep, TYPED_INPUTS, adapt=_word_piece)
_MPNET_FLAGS: Mapping[str, Mapping[str, bool]] = {
    name: {"lstrip": name == "mask_token", "rstrip": False} for name in _ROBERTA_TOKENS
}
_WHISPER_FLAGS: Mapping[str, Mapping[str, bool]] = dict.fromkeys(
    ("bos_token", "eos_token", "unk_token"), {"normalized": False, "special": True}
)
_CLS_TOKENS = _names("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
_GPT2 = Recipe("BPE", BYTE_BPE, _names(END, END, END, None), pipelines.byte_level)
_LLAMA_MODEL = {"dropout": None, "unk_token": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
_LLAMA = Recipe(
    "BPE",
    _LLAMA_MODEL,
    _names("<unk>", "<s>", "</s>"),
    pipelines.llama,
    padding_side="left",
    sentencepiece=("tokenizer.model",),
)

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
        replace(_BERT, rebuild=pipelines.lowercase_bert),
    ),
    "ConvBert": Recipe(inputs=TYPED_INPUTS),
    "DistilBert": replace(_BERT, inputs=("input_ids", "attention_mask")),
    "MPNet": Recipe(
        "WordPiece",
        {},
        _names("[UNK]", "<s>", "</s>", "<pad>", "<s>", "</s>", "<mask>"),
        pipelines.bert,
        pipelines.mpnet_ends,
        adapt=_word_piece,
        flags=_MPNET_FLAGS,
    ),
    "GPT2": _GPT2,
    **dict.fromkeys(
        "Roberta Bart Longformer LED Mvp".split(),
        Recipe("BPE", BYTE_BPE, _ROBERTA_TOKENS, pipelines.byte_level, pipelines.roberta_ends),
    ),
    "GPTNeoX": Recipe("BPE", BYTE_BPE, _names(END, END, END, "<|padding|>"), pipelines.neox, pipelines.bos_eos),
    "Qwen2": Recipe("BPE", BYTE_BPE, _names(END, None, END, END), pipelines.qwen, pipelines.all_special),
    "Cohere": Recipe(
        "BPE",
        BYTE_BPE,
        _names("<UNK>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<PAD>", "<CLS>", "<SEP>", "<MASK_TOKEN>"),
        pipelines.cohere,
        pipelines.all_special,
        padding_side="left",
    ),
    "CLIP": Recipe(
        "BPE",
        BYTE_BPE | {"unk_token": END, "end_of_word_suffix": "</w>"},
        _names(END, "<|startoftext|>", END, END),
        pipelines.clip,
        pipelines.clip_ends,
        word_end="</w>",
        adapt=_unknown,
    ),
    "Llama": _LLAMA,
    "Phi3": _LLAMA,
    "Gemma": Recipe(
        "BPE",
        _LLAMA_MODEL | {"unk_token": "<unk>"},
        _names("<unk>", "<bos>", "<eos>", "<pad>", "-", "-", "<mask>"),
        pipelines.gemma,
        padding_side="left",
        adapt=_unknown,
        sentencepiece=("tokenizer.model",),
    ),
    "XLMRoberta": Recipe(
        "Unigram",
        {"unk_id": 3},
        _ROBERTA_TOKENS,
        pipelines.metaspace_words,
        pipelines.xlm_roberta_ends,
        sentencepiece=("sentencepiece.bpe.model",),
        arrange=_fairseq_order,
    ),
    "T5": Recipe(
        "Unigram",
        {"unk_id": 2},
        _names("<unk>", "-", "</s>", "<pad>"),
        pipelines.t5,
        pipelines.t5_ends,
        sentencepiece=("spiece.model",),
        arrange=_with_sentinels,
    ),
    "Albert": Recipe(
        "Unigram",
        {"unk_id": 1, "byte_fallback": False},
        {**_CLS_TOKENS, "unk_token": "<unk>", "pad_token": "<pad>"},
        pipelines.albert,
        pipelines.albert_ends,
        sentencepiece=("spiece.model",),
    ),
    "Deberta": Recipe("BPE", BYTE_BPE, _CLS_TOKENS, pipelines.byte_level, pipelines.deberta_ends, TYPED_LAST),
    "DebertaV2": Recipe(
        "Unigram",
        {"byte_fallback": False},
        _CLS_TOKENS,
        pipelines.deberta_v2,
        pipelines.around_cls_sep,
        TYPED_LAST,
        adapt=_deberta_unknown,
        sentencepiece=("spm.model",),
    ),
    "Whisper": Recipe(
        "BPE", BYTE_BPE, _names(END, END, END), pipelines.byte_level, pipelines.bos_eos, flags=_WHISPER_FLAGS
    ),
    "CodeLlama": Recipe(tokens=_INFILL, padding_side="left"),
    "Siglip2": Recipe(padding_side="left"),
    "XLNet": Recipe(padding_side="left"),
    "FNet": Recipe(inputs=("input_ids", "token_type_ids")),
}
AS_WRITTEN = Recipe()
