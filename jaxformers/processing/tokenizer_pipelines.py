"""The pipelines that transformers' tokenizer classes build: normaliser, splitter and decoder, and what ends a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from jaxformers.processing.tokenizer import Tokenizer as OurTokenizer

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def bert(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")


def lowercase_bert(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    bert(backend, {**options, "do_lower_case": True})  # the class stores the option and never uses it


def byte_level(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(options.get("add_prefix_space", False)))
    backend.decoder = decoders.ByteLevel()


def neox(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    byte_level(backend, options)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=options.get("add_prefix_space", False), trim_offsets=options.get("trim_offsets", True)
    )


def qwen(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    prefix = bool(options.get("add_prefix_space"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()


def cohere(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    prefix = options.get("add_prefix_space", False)
    backend.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, trim_offsets=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    backend.decoder = decoders.ByteLevel()


def clip(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(CLIP_SPLIT), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()


def llama(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    prefix = options.get("add_prefix_space")
    prefix = True if prefix is None else prefix
    # Legacy Llama puts the space before every piece of text, also after a special token.
    scheme = ("always" if options.get("legacy", False) else "first") if prefix else "never"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *([decoders.Strip(content=" ", left=1)] if prefix else [])])


def gemma(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def metaspace_words(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    scheme = "always" if options.get("add_prefix_space", True) else "never"
    backend.normalizer = precompiled(backend)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)


def t5(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    metaspace_words(backend, {})


def albert(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    table = precompiled(backend)
    metaspace_words(backend, options)
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not options.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if options.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    backend.normalizer = normalizers.Sequence([*steps, *([table] if table is not None else [])])


def deberta_v2(backend: Tokenizer, options: Mapping[str, Any]) -> None:
    lower = [normalizers.Lowercase()] if options.get("do_lower_case", False) else []
    blanks = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    backend.normalizer = normalizers.Sequence(
        [*lower, blanks, normalizers.NFC(), normalizers.Strip(left=False, right=True)]
    )
    split = [pre_tokenizers.Punctuation(behavior="isolated")] if options.get("split_by_punct", False) else []
    scheme = "always" if options.get("add_prefix_space", True) else "first"
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*split, metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)


def precompiled(backend: Tokenizer) -> Any:
    """Return the SentencePiece table among the file's normalizers: the only one a rebuilt Unigram keeps."""
    found: Any = backend.normalizer
    steps: Any = found if isinstance(found, normalizers.Sequence) else [found]
    return next((step for step in steps if isinstance(step, normalizers.Precompiled)), None)


def around_cls_sep(tokenizer: OurTokenizer) -> None:
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )


def albert_ends(tokenizer: OurTokenizer) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",  # whatever cls_token and sep_token are called
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)],
    )


def deberta_ends(tokenizer: OurTokenizer) -> None:
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} {sep} $B {sep}",
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )


def roberta_ends(tokenizer: OurTokenizer) -> None:
    options = tokenizer.options
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        (tokenizer.sep_token, tokenizer.sep_token_id),
        (tokenizer.cls_token, tokenizer.cls_token_id),
        options.get("trim_offsets", True),
        options.get("add_prefix_space", False),
    )


def mpnet_ends(tokenizer: OurTokenizer) -> None:
    sep, cls = (tokenizer.sep_token, tokenizer.sep_token_id), (tokenizer.cls_token, tokenizer.cls_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(sep, cls, True, False)


def clip_ends(tokenizer: OurTokenizer) -> None:
    eos, bos = (tokenizer.eos_token, tokenizer.eos_token_id), (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(eos, bos, False, False)


def xlm_roberta_ends(tokenizer: OurTokenizer) -> None:
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, eos, "$B", eos],
        special_tokens=[(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)],
    )


def t5_ends(tokenizer: OurTokenizer) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", tokenizer.eos_token_id)]
    )


def all_special(tokenizer: OurTokenizer) -> None:
    tokenizer.add_tokens([AddedToken(token, special=True) for token in tokenizer.all_special_tokens])


def bos_eos(tokenizer: OurTokenizer) -> None:
    tokenizer.update_post_processor()
