"""Spelled-out English numbers as digits, the way Whisper's evaluation writes them."""

from __future__ import annotations

import re
from fractions import Fraction

_ONES = """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_POWERS = (
    "thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion decillion"
)

ZEROS = {"o", "oh", "zero"}
ONES = {name: number for number, name in enumerate(_ONES, 1)}
TENS = {name: 10 * number for number, name in enumerate(_TENS, 2)}
MULTIPLIERS = {"hundred": 100} | {name: 1000**power for power, name in enumerate(_POWERS.split(), 1)}
_IRREGULAR = {1: ("first", "st"), 2: ("second", "nd"), 3: ("third", "rd"), 5: ("fifth", "th"), 12: ("twelfth", "th")}

# Plurals and ordinals: the number, and what is written behind it.
ONES_ENDED: dict[str, tuple[int, str]] = {"zeroth": (0, "th")}
for _name, _number in ONES.items():
    ONES_ENDED["sixes" if _name == "six" else f"{_name}s"] = (_number, "s")
    _ordinal, _ending = _IRREGULAR.get(_number, (f"{_name}h" if _name.endswith("t") else f"{_name}th", "th"))
    ONES_ENDED[_ordinal] = (_number, _ending)
TENS_ENDED = {f"{name[:-1]}ies": (number, "s") for name, number in TENS.items()} | {
    f"{name[:-1]}ieth": (number, "th") for name, number in TENS.items()
}
MULTIPLIERS_ENDED = {f"{name}s": (number, "s") for name, number in MULTIPLIERS.items()} | {
    f"{name}th": (number, "th") for name, number in MULTIPLIERS.items()
}
SIGNS = {"minus": "-", "negative": "-", "plus": "+", "positive": "+"}
UNITS = {"pound": "£", "pounds": "£", "euro": "€", "euros": "€", "dollar": "$", "dollars": "$"} | {
    "cent": "¢",
    "cents": "¢",
}
PREFIXES = {*SIGNS.values(), *UNITS.values()}
SPECIALS = {"and", "double", "triple", "point"}
DECIMALS = {*ONES, *TENS, *ZEROS}
WORDS = {
    *ZEROS,
    *ONES,
    *ONES_ENDED,
    *TENS,
    *TENS_ENDED,
    *MULTIPLIERS,
    *MULTIPLIERS_ENDED,
    *SIGNS,
    *UNITS,
    *SPECIALS,
} | {
    "per",
    "percent",
}
DIGITS = re.compile(r"\d+(\.\d+)?")


def numbers_to_digits(text: str) -> str:
    """Write "twenty five dollars" as "$25" and "one oh one" as "101"."""
    return _money(" ".join(_Reader(_separated(text).split()).read()))


class _Reader:
    """Reads words from left to right, with the number that is being built."""

    def __init__(self, words: list[str]):
        self.words = words
        self.value: int | str | None = None  # a string once digits stand side by side
        self.prefix: str | None = None
        self.out: list[str] = []

    def read(self) -> list[str]:
        skip = False
        for i, word in enumerate(self.words):
            if skip:
                skip = False
                continue
            before = self.words[i - 1] if i else None
            after = self.words[i + 1] if i + 1 < len(self.words) else None
            skip = self._word(word, before, after)
        self._flush()
        return self.out

    def _emit(self, text: int | str) -> None:
        self.out.append(f"{self.prefix or ''}{text}")
        self.value = self.prefix = None

    def _flush(self) -> None:
        if self.value is not None:
            self._emit(self.value)

    def _word(self, word: str, before: str | None, after: str | None) -> bool:
        """Read one word; returns whether the next was read with it."""
        bare = word[1:] if word[0] in PREFIXES else word
        if DIGITS.fullmatch(bare):
            self._digits(word, bare)
        elif word in ZEROS:
            self.value = f"{self.value or ''}0"
        elif word in ONES or word in ONES_ENDED:
            number, ending = ONES_ENDED.get(word) or (ONES[word], "")
            self._count(self._with_ones(number, before), ending)
        elif word in TENS or word in TENS_ENDED:
            number, ending = TENS_ENDED.get(word) or (TENS[word], "")
            self._count(self._joined(number, 100), ending)
        elif word in MULTIPLIERS or word in MULTIPLIERS_ENDED:
            number, ending = MULTIPLIERS_ENDED.get(word) or (MULTIPLIERS[word], "")
            self._count(self._multiplied(number), ending)
        elif word in SIGNS and (after in WORDS or _is_number(after)):
            self._flush()
            self.prefix = SIGNS[word]
        elif word in UNITS and self.value is not None:
            self.prefix = UNITS[word]
            self._flush()
        elif self.value is not None and (word == "percent" or word == "per" and after == "cent"):
            self._emit(f"{self.value}%")
            return word == "per"
        elif word in SPECIALS and (after in WORDS or _is_number(after)):
            return self._special(word, before, after or "")
        else:
            self._flush()
            self._emit(word)
        return False

    def _digits(self, word: str, bare: str) -> None:
        if isinstance(self.value, str) and self.value.endswith("."):
            self.value += word
            return
        self._flush()
        self.prefix = word[0] if bare != word else self.prefix
        exact = Fraction(bare)
        self.value = exact.numerator if exact.denominator == 1 else bare

    def _count(self, value: int | str, ending: str) -> None:
        """Keep a number for what follows, or write it with its ending."""
        self.value = value
        if ending:
            self._emit(f"{value}{ending}")

    def _joined(self, number: int, room: int) -> int | str:
        """Add a number where the one before ends with enough zeros, else write it behind."""
        if self.value is None:
            return number
        if isinstance(self.value, int) and self.value % room == 0:
            return self.value + number
        return f"{self.value}{number}"

    def _with_ones(self, number: int, before: str | None) -> int | str:
        if self.value is not None and (isinstance(self.value, str) or before in ONES):
            value = str(self.value)
            return f"{value[:-1] if before in TENS and number < 10 else value}{number}"
        return self._joined(number, 10 if number < 10 else 100)

    def _multiplied(self, number: int) -> int | str:
        if self.value is None:
            return number
        if isinstance(self.value, int):
            return self.value // 1000 * 1000 + self.value % 1000 * number
        try:
            product = Fraction(self.value) * number
        except ValueError:
            product = None
        if product is not None and product.denominator == 1:
            return product.numerator
        self._emit(self.value)
        return number

    def _special(self, word: str, before: str | None, after: str) -> bool:
        if word == "and" and before in MULTIPLIERS:
            return False  # "two hundred and five"
        if word == "point":
            if after in DECIMALS or _is_number(after):
                self.value = f"{self.value or ''}."
            return False
        if word != "and" and (after in ONES or after in ZEROS):
            self.value = f"{self.value or ''}{str(ONES.get(after, 0)) * (2 if word == 'double' else 3)}"
            return True
        self._flush()
        self._emit(word)
        return False


def _is_number(word: str | None) -> bool:
    return word is not None and DIGITS.fullmatch(word) is not None


def _separated(text: str) -> str:
    """Write "and a half" as "point five", and numbers apart from the letters beside them."""
    *halves, rest = re.split(r"\band\s+a\s+half\b", text)
    parts = []
    for half in halves:
        if half.strip():
            last = half.rsplit(maxsplit=2)[-1]
            parts += [half, "point five" if last in DECIMALS or last in MULTIPLIERS else "and a half"]
    text = " ".join([*parts, rest] if rest.strip() else parts)
    text = re.sub(r"([a-z])([0-9])", r"\1 \2", text)
    text = re.sub(r"([0-9])([a-z])", r"\1 \2", text)
    return re.sub(r"([0-9])\s+(st|nd|rd|th|s)\b", r"\1\2", text)


def _money(text: str) -> str:
    """Join dollars and cents, and write "one" instead of "1"."""
    text = re.sub(r"([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})\b", lambda m: f"{m[1]}{m[2]}.{int(m[3]):02d}", text)
    text = re.sub(r"[€£$]0.([0-9]{1,2})\b", lambda m: f"¢{int(m[1])}", text)
    return re.sub(r"\b1(s?)\b", r"one\1", text)
