"""Added tokens of a tokenizer written in Python: their ids, and cutting a text at them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from tokenizers import AddedToken


class AddedTokens:
    """Tokens matched before anything else in a text: the leftmost first and, of those, the longest.

    Whether they swallow the blanks beside them, or are found only as whole words, is what their flags say.
    """

    def __init__(self, tokens: Mapping[int, AddedToken] | None = None):
        self.by_id: dict[int, AddedToken] = dict(tokens or {})
        self.ids: dict[str, int] = {token.content: index for index, token in self.by_id.items()}
        self._pattern: re.Pattern[str] | None = None

    def set(self, index: int, token: AddedToken) -> None:
        """Give a token an id, in place of the token that had it."""
        self.by_id[index] = token
        self.ids[token.content] = index
        self._pattern = None

    def remove(self, indices: Iterable[int]) -> None:
        """Forget the tokens with these ids."""
        for index in indices:
            if index in self.by_id:
                self.ids.pop(self.by_id.pop(index).content, None)
        self._pattern = None

    def cut(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """Yield start, end and id of every stretch of the text; the id is None for a stretch of plain text."""
        spans = self._spans(text)
        for i, (start, end) in enumerate(spans):
            index = self.ids.get(text[start:end])
            if index is not None:
                self._apply_flags(text, spans, i, self.by_id[index])
        for start, end in spans:
            if start < end:
                yield start, end, self.ids.get(text[start:end])

    def _spans(self, text: str) -> list[list[int]]:
        if self._pattern is None:
            longest_first = sorted(filter(None, self.ids), key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        spans, at = [], 0
        for found in self._pattern.finditer(text):
            if found.start() > at:
                spans.append([at, found.start()])
            spans.append([found.start(), found.end()])
            at = found.end()
        return [*spans, [at, len(text)]]

    def _apply_flags(self, text: str, spans: list[list[int]], i: int, token: AddedToken) -> None:
        """Take blanks from the neighbours, or hand the token over to the word it is a part of."""
        start, end = spans[i]
        left, right = (spans[i - 1] if i else None), (spans[i + 1] if i + 1 < len(spans) else None)
        before = text[slice(*left)] if left else ""
        after = text[slice(*right)] if right else ""
        if token.rstrip and right:
            right[0] = right[1] - len(after.lstrip())
        if token.lstrip and left:
            left[1] = left[0] + len(before.rstrip())
        if not token.single_word:
            return
        if left and before and before[-1] != " ":
            left[1] = end
            spans[i] = [end, end]
        elif right and after and after[0] != " ":
            right[0] = start
            spans[i] = [start, start]
