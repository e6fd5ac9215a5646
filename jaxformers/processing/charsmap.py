"""The table of character replacements in a SentencePiece model, a darts-clone trie, checked before anyone walks it.

Layout, from sentencepiece's normalizer.cc: a uint32 with the trie's size in bytes, the trie's uint32 units, then the
replacements, each ended by a zero byte. A leaf's value is where its replacement starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

BYTES = np.arange(1, 256, dtype=np.uint32)  # a zero byte ends the walk
MOST_KEYS, LONGEST_KEY = 1 << 20, 256  # far beyond any real table; only a damaged one goes round in circles


def check_charsmap(data: bytes) -> None:
    """Raise ValueError if some text would lead the walk out of the table, which the backend does not survive."""
    size = int.from_bytes(data[:4], "little") if len(data) >= 4 else 0
    if not size or size % 4 or 4 + size > len(data):
        raise ValueError(f"its table of replacements is damaged: {size} bytes of trie in {len(data)} bytes")
    units = np.frombuffer(data, "<u4", size // 4, offset=4).astype(np.uint32)
    replacements = data[4 + size :]
    try:
        replacements.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"its replacements are not UTF-8: {error}") from error
    values = np.array([*_children(units)[1].values()], np.int64)
    if values.size and values.max() >= len(replacements):
        raise ValueError(f"a replacement starts at {values.max()} and they end at {len(replacements)}")
    first = np.frombuffer(replacements, np.uint8)[values]
    if ((first & 0xC0) == 0x80).any():
        raise ValueError("a replacement starts in the middle of a character")


def _children(units: np.ndarray) -> tuple[dict[int, list[tuple[int, int]]], dict[int, int]]:
    """Return (byte, unit) of the children of every unit that a walk from 0 can reach, and the value of those that end.

    Raises ValueError if a walk can leave the trie.
    """
    nodes, seen = np.zeros(1, np.uint32), np.zeros(len(units), bool)
    children: dict[int, list[tuple[int, int]]] = {}
    values: dict[int, int] = {}
    while nodes.size:
        bases = _bases(nodes, units)
        ends = np.nonzero((units[nodes] >> 8) & 1 & (nodes > 0))[0]
        places = bases[:, None] ^ BYTES
        furthest = max(places.max(), bases[ends].max(initial=0))
        if furthest >= len(units):
            raise ValueError(f"its trie points at unit {furthest} of {len(units)}")
        leaves = (units[bases[ends]] & 0x7FFFFFFF).tolist()
        values.update(zip(nodes[ends].tolist(), leaves, strict=True))
        parent, label = np.nonzero((units[places] & 0x800000FF) == BYTES)
        found = places[parent, label]
        for node, byte, child in zip(nodes[parent].tolist(), label.tolist(), found.tolist(), strict=True):
            children.setdefault(node, []).append((byte + 1, child))
        nodes = np.unique(found[~seen[found]])
        seen[nodes] = True
    return children, values


def _bases(nodes: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return where the children of nodes are, but for the byte that leads to each."""
    unit = units[nodes]
    return nodes ^ ((unit >> 10) << ((unit & 512) >> 6))


@lru_cache(maxsize=4)
def replacements(data: bytes) -> Mapping[str, str]:
    """Return a checked table as a dictionary: what is replaced, and by what. Raises ValueError if it has no end."""
    if not data:
        return {}
    size = int.from_bytes(data[:4], "little")
    children, values = _children(np.frombuffer(data, "<u4", size // 4, offset=4).astype(np.uint32))
    texts = data[4 + size :]
    found = {}
    waiting = [(0, b"")]  # keys share the units of equal endings, so a unit may be met with many keys
    while waiting:
        node, key = waiting.pop()
        if len(found) > MOST_KEYS or len(key) > LONGEST_KEY:
            raise ValueError("its trie has no end")
        if node in values:
            start = values[node]
            found[key.decode("utf-8", "replace")] = texts[start : texts.index(b"\0", start)].decode("utf-8")
        waiting += [(child, key + bytes([byte])) for byte, child in children.get(node, ())]
    return found
