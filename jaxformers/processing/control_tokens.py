"""Control tokens that a user typed, encoded as plain text, so that only the chat template can write real ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tokenizers

from jaxformers.processing.padding import resolve_lengths
from jaxformers.processing.templates import literals

if TYPE_CHECKING:
    from jaxformers.processing.batch import BatchEncoding
    from jaxformers.processing.tokenizer import Tokenizer

OPEN, CLOSE = "\U000f0000", "\U000f0001"  # for private use: no text needs them, and those of a user are dropped


def control_tokens(tokenizer: Tokenizer, template: str) -> tuple[str, ...]:
    """Return the added tokens that steer a model: special ones, and those the template writes or the files list."""
    listed = tokenizer.options.get("chat_control_tokens")
    written = literals(template)

    def steers(text: str) -> bool:
        return text in listed if listed is not None else text in written and not text.isspace()

    added = tokenizer.added_tokens_decoder.values()
    return tuple(token.content for token in added if token.special or steers(token.content))


def mark(value: Any, tokens: Sequence[str]) -> Any:
    """Put marks around these tokens in a string, or in all strings of a list or dictionary but its keys."""
    pattern = re.compile(_any_of(tokens))

    def marked(item: Any) -> Any:
        if isinstance(item, str):
            return pattern.sub(lambda found: f"{OPEN}{found[0]}{CLOSE}", item.replace(OPEN, "").replace(CLOSE, ""))
        if isinstance(item, Mapping):
            return {key: marked(inner) for key, inner in item.items()}
        return [marked(inner) for inner in item] if isinstance(item, (list, tuple)) else item

    return marked(value)


def encode_marked(
    tokenizer: Tokenizer, texts: Sequence[str], options: Mapping[str, Any], batched: bool
) -> BatchEncoding:
    """Encode rendered chats, what is marked as plain text; `options` are those of a tokenizer call.

    Raises ValueError when a token comes out of plain text too.
    """
    options = dict(options)
    if options.pop("add_special_tokens", False):
        raise ValueError(
            "sanitize_control_tokens needs a template that writes special tokens: leave add_special_tokens"
        )
    lengths = resolve_lengths(
        tokenizer,
        options["padding"],
        options.pop("truncation"),
        options["max_length"],
        options.get("pad_to_multiple_of"),
    )
    rows = [_ids(tokenizer, text) for text in texts]
    if lengths.truncation and lengths.max_length is not None:
        cut = slice(lengths.max_length) if tokenizer.truncation_side == "right" else slice(-lengths.max_length, None)
        rows = [row[cut] for row in rows]
    options["padding"] = lengths.padding or False
    return tokenizer.pad({"input_ids": rows if batched or options["return_tensors"] else rows[0]}, **options)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode piece by piece; a lone mark, left where a template cut a string, still keeps its sides apart."""
    pattern = re.compile(f"{OPEN}({_any_of(list(tokenizer.added_tokens_encoder))}){CLOSE}|[{OPEN}{CLOSE}]")

    def usual(part: str) -> list[int]:
        return tokenizer.encode(part, add_special_tokens=False)

    first, *pieces = pattern.split(text)
    ids, line = usual(first), usual("\n")
    for i, piece in enumerate(pieces):
        if not piece:
            continue
        typed = i % 2 == 0
        found = _inside(piece, (lambda part: _plain(tokenizer, part)) if typed else usual, line)
        if typed and tokenizer.convert_tokens_to_ids(piece) in found:
            raise ValueError(f"{piece!r} cannot be sanitized: the tokenizer makes that token of plain text")
        ids += found
    return ids


def _inside(piece: str, encode: Callable[[str], list[int]], line: list[int]) -> list[int]:
    """Encode a piece as the middle of a text: behind a line's end no blank is put in front of it."""
    ids = encode("\n" + piece)
    return ids[len(line) :] if ids[: len(line)] == line else encode(piece)


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode without any added tokens."""
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend, tokenizers.Tokenizer):
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    splits = [text]
    if backend.pre_tokenizer is not None:
        splits = [split for split, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for split in splits for token in backend.model.tokenize(split)]


def _any_of(tokens: Sequence[str]) -> str:
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"
