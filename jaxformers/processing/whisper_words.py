"""Tokens of a transcript to words, for the times of words."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxformers.processing.whisper_languages import UNSPACED

if TYPE_CHECKING:
    from jaxformers.processing.whisper_tokenizer import WhisperTokenizer

BEFORE, AFTER = "\"'“¡¿([{-", "\"'.。,，!！?？:：”)]}、"  # punctuation that belongs to the next word, to the last one
BROKEN = "\ufffd"  # what half a character decodes to


class Word(NamedTuple):
    """A word and the places of its tokens in the transcript."""

    text: str
    places: list[int]


def split_words(tokenizer: WhisperTokenizer, tokens: Sequence[int], language: str | None) -> list[Word]:
    """Group tokens to words at spaces or, in languages without spaces, to characters; punctuation joins a word."""
    language = language or tokenizer.language or "english"
    words = _characters(lambda ids: tokenizer.decode(ids, decode_with_timestamps=True), tokens)
    if language not in UNSPACED:
        words = _at_spaces(words, tokens, tokenizer.eos_token_id)
    words = _before(words)
    words = _after(words)
    # A token that decodes to nothing is no word, but keeps its place in the list of times.
    texts, places = [word.text for word in words if word.text], [word.places for word in words if word.places]
    return [Word(*pair) for pair in zip(texts, places, strict=False)]


def _characters(decode: Callable[[list[int]], str], tokens: Sequence[int]) -> list[Word]:
    """Cut where the tokens so far are whole characters."""
    whole = decode(list(tokens))
    words: list[Word] = []
    places: list[int] = []
    length = 0
    for place in range(len(tokens)):
        places.append(place)
        text = decode([tokens[i] for i in places])
        broken = text.find(BROKEN)
        # The text itself may hold the sign for broken characters.
        if broken < 0 or length + broken >= len(whole) or whole[length + broken] == BROKEN:
            words.append(Word(text, places))
            places = []
            length += len(text)
    return words


def _at_spaces(parts: Sequence[Word], tokens: Sequence[int], first_special: int) -> list[Word]:
    words: list[Word] = []
    for part in parts:
        special = tokens[part.places[0]] >= first_special
        if special or not words or part.text.startswith(" ") or part.text.strip() in string.punctuation:
            words.append(Word(part.text, list(part.places)))
        else:
            words[-1] = Word(words[-1].text + part.text, words[-1].places + part.places)
    return words


def _before(words: list[Word]) -> list[Word]:
    """Put opening punctuation in front of the word behind it."""
    words = list(words)
    target = len(words) - 1
    for i in reversed(range(len(words) - 1)):
        if words[i].text.startswith(" ") and words[i].text.strip() in BEFORE:
            words[target] = Word(words[i].text + words[target].text, words[i].places + words[target].places)
            words[i] = Word("", [])
        else:
            target = i
    return words


def _after(words: list[Word]) -> list[Word]:
    """Put closing punctuation behind the word before it."""
    words = list(words)
    target = 0
    for i in range(1, len(words)):
        if not words[target].text.endswith(" ") and words[i].text in AFTER:
            words[target] = Word(words[target].text + words[i].text, words[target].places + words[i].places)
            words[i] = Word("", [])
        else:
            target = i
    return words
