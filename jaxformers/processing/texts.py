"""What a tokenizer may be called with: a text, a pair, words, or a batch of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Encoding, Tokenizer

from jaxformers.processing.padding import no_room

EXPECTED = (
    "a string, a list of strings (a batch, or the words of one text with is_split_into_words=True), "
    "or a list of pairs or of lists of words"
)


def rows_of(text: Any, pair: Any, words: bool) -> tuple[list[Any], bool]:
    """Return the rows to encode and whether the caller gave a batch. Raises ValueError on anything but texts."""
    _check("text", text)
    if pair is not None:
        _check("text_pair", pair)
    batched = isinstance(text, (list, tuple)) and (not words or bool(text) and isinstance(text[0], (list, tuple)))
    if words and isinstance(text, str):
        raise ValueError("is_split_into_words=True needs a list of words, not a string")
    if not batched:
        if not words and isinstance(pair, (list, tuple)):
            raise ValueError("text is one string and text_pair a list: give both as strings or both as lists")
        return [(text, pair) if pair else text], False
    if not text:
        raise ValueError("the batch is empty: give at least one text")
    if pair is None:
        return list(text), True
    if isinstance(pair, str) or len(pair) != len(text):
        found = "one string" if isinstance(pair, str) else f"{len(pair)} texts"
        raise ValueError(f"text is a batch of {len(text)}, so text_pair must be a list of {len(text)}, found {found}")
    return list(zip(text, pair, strict=True)), True


def encode_rows(
    backend: Tokenizer, rows: list[Any], special: bool, words: bool, truncation: Mapping[str, Any]
) -> list[Encoding]:
    """Encode rows, with the backend's complaints in plain words. Raises ValueError."""
    try:
        return backend.encode_batch(rows, add_special_tokens=special, is_pretokenized=words)
    except TypeError as error:
        lone = next((text for text in _strings(rows) if any("\ud800" <= letter <= "\udfff" for letter in text)), None)
        if lone is not None:
            raise ValueError(f"{lone!r} holds half a surrogate pair, which is no character: decode it first") from error
        raise ValueError(f"the rows must be {EXPECTED}; found {rows[:3]!r}") from error
    except BaseException as error:
        if type(error).__name__ == "PanicException" and truncation:  # a stride that only this text makes too large
            raise ValueError(no_room(truncation)) from error
        if type(error) is Exception:  # the library's own error type
            cut = f" with truncation={truncation['strategy']!r}" if truncation else ""
            raise ValueError(f"the tokenizer cannot encode these texts{cut}: {error}") from error
        raise


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for item in value or ():
            yield from _strings(item)


def _check(name: str, value: Any) -> None:
    if not _is_text(value, depth=3):
        raise ValueError(f"{name} must be {EXPECTED}; found {_describe(value)}")


def _is_text(value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return True
    return depth > 0 and isinstance(value, (list, tuple)) and all(_is_text(item, depth - 1) for item in value)


def _describe(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        odd = next((item for item in value if not isinstance(item, (str, list, tuple))), value[0] if value else None)
        return f"a {type(value).__name__} holding {odd!r}"
    return f"{type(value).__name__} {value!r}"
