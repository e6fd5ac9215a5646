"""Texts made alike before they are compared, as Whisper's evaluation does: case, punctuation, spelling, numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from jaxformers.processing.english_numbers import numbers_to_digits

# Letters that Unicode does not take apart.
LETTERS = {"œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "ß": "ss", "ẞ": "SS", "đ": "d", "Đ": "D"} | {
    "ð": "d",
    "Ð": "D",
    "þ": "th",
    "Þ": "th",
    "ł": "l",
    "Ł": "L",
}
FILLERS = re.compile(r"\b(hmm|mm|mhm|mmm|uh|um)\b")
# Whole words, then endings; in this order.
CONTRACTIONS = {
    "won't": "will not",
    "can't": "can not",
    "let's": "let us",
    "ain't": "aint",
    "y'all": "you all",
    "wanna": "want to",
    "gotta": "got to",
    "gonna": "going to",
    "i'ma": "i am going to",
    "imma": "i am going to",
    "woulda": "would have",
    "coulda": "could have",
    "shoulda": "should have",
    "ma'am": "madam",
}
TITLES = dict(
    zip(
        "mr mrs st dr prof capt gov ald gen sen rep pres rev hon asst assoc lt col jr sr esq".split(),
        "mister missus saint doctor professor captain governor alderman general senator representative president "
        "reverend honorable assistant associate lieutenant colonel junior senior esquire".split(),
        strict=True,
    )
)
ENDINGS = {
    "'d been": "had been",
    "'s been": "has been",
    "'d gone": "had gone",
    "'s gone": "has gone",
    "'d done": "had done",
    "'s got": "has got",
    "n't": "not",
    "'re": "are",
    "'s": "is",
    "'d": "would",
    "'ll": "will",
    "'t": "not",
    "'ve": "have",
    "'m": "am",
}
REPLACEMENTS = [
    *((re.compile(rf"\b{word}\b"), full) for word, full in CONTRACTIONS.items()),
    *((re.compile(rf"\b{word}\b"), f"{full} ") for word, full in TITLES.items()),
    *((re.compile(rf"{word}\b"), f" {full}") for word, full in ENDINGS.items()),
]


def basic_normalize(text: str, remove_diacritics: bool = False) -> str:
    """Lower the case and drop brackets, punctuation and, on demand, accents; for texts of any language."""
    text = _without_brackets(text.lower())
    text = (without_accents(text) if remove_diacritics else without_symbols(text)).lower()
    return re.sub(r"\s+", " ", text)


def english_normalize(text: str, spellings: Mapping[str, str]) -> str:
    """Make an English text comparable: no fillers or contractions, numbers as digits, American `spellings`."""
    text = FILLERS.sub("", _without_brackets(text.lower()))
    text = re.sub(r"\s+'", "'", text)
    for pattern, full in REPLACEMENTS:
        text = pattern.sub(full, text)
    text = re.sub(r"(\d),(\d)", r"\1\2", text)
    text = re.sub(r"\.([^0-9]|$)", r" \1", text)
    text = numbers_to_digits(without_accents(text, keep=".%$¢€£"))
    text = " ".join(spellings.get(word, word) for word in text.split())
    text = re.sub(r"[.$¢€£]([^0-9])", r" \1", text)
    text = re.sub(r"([^0-9])%", r"\1 ", text)
    return re.sub(r"\s+", " ", text)


def without_symbols(text: str) -> str:
    """Write blanks for marks, symbols and punctuation."""
    return "".join(" " if _is_symbol(c) else c for c in unicodedata.normalize("NFKC", text))


def without_accents(text: str, keep: str = "") -> str:
    """Write blanks for symbols and punctuation not in `keep`, and letters without their accents."""
    return "".join(_plain(c, keep) for c in unicodedata.normalize("NFKD", text))


def _plain(letter: str, keep: str) -> str:
    if letter in keep:
        return letter
    if letter in LETTERS:
        return LETTERS[letter]
    if unicodedata.category(letter) == "Mn":
        return ""
    return " " if _is_symbol(letter) else letter


def _is_symbol(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "MSP"


def _without_brackets(text: str) -> str:
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text)
    return re.sub(r"\(([^)]+?)\)", "", text)
