"""The table of character replacements in a SentencePiece model, a darts-clone trie, checked before anyone walks it.

Layout, from sentencepiece's normalizer.cc: a uint32 with the trie's size in bytes, the trie's uint32 units, then the
replacements, each ended by a zero byte. A leaf's value is where its replacement starts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BYTES = np.arange(1, 256, dtype=np.uint32)  # a zero byte ends the walk


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
    values = np.array([int(unit) & 0x7FFFFFFF for unit, _ in _walk(units)], np.int64)
    if values.size and values.max() >= len(replacements):
        raise ValueError(f"a replacement starts at {values.max()} and they end at {len(replacements)}")
    first = np.frombuffer(replacements, np.uint8)[values]
    if ((first & 0xC0) == 0x80).any():
        raise ValueError("a replacement starts in the middle of a character")


def _walk(units: np.ndarray) -> Iterator[tuple[np.uint32, bytes]]:
    """Yield every leaf unit that a walk from the root can reach, and the bytes that lead there.

    Raises ValueError if a walk can leave the trie.
    """
    bases, keys = _bases(np.zeros(1, np.uint32), units), [b""]
    seen = np.zeros(len(units), bool)
    while bases.size:
        children = bases[:, None] ^ BYTES
        if children.max() >= len(units):
            raise ValueError(f"its trie points at unit {children.max()} of {len(units)}")
        parent, label = np.nonzero((units[children] & 0x800000FF) == BYTES)
        nodes, first = np.unique(children[parent, label], return_index=True)
        new = ~seen[nodes]  # a damaged trie may come back to a unit
        nodes, first = nodes[new], first[new]
        seen[nodes] = True
        keys = [keys[parent[i]] + bytes([label[i] + 1]) for i in first]
        bases = _bases(nodes, units)
        ends = np.nonzero((units[nodes] >> 8) & 1)[0]
        if ends.size and bases[ends].max() >= len(units):
            raise ValueError(f"its trie points at unit {bases[ends].max()} of {len(units)}")
        yield from ((units[bases[i]], keys[i]) for i in ends)


def _bases(nodes: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return where the children of nodes are, but for the byte that leads to each."""
    unit = units[nodes]
    return nodes ^ ((unit >> 10) << ((unit & 512) >> 6))


def replacements(data: bytes) -> dict[str, str]:
    """Return the table as a dictionary: what is replaced, and by what."""
    if not data:
        return {}
    size = int.from_bytes(data[:4], "little")
    units = np.frombuffer(data, "<u4", size // 4, offset=4).astype(np.uint32)
    texts = data[4 + size :]
    found = {}
    for unit, key in _walk(units):
        start = int(unit) & 0x7FFFFFFF
        found[key.decode("utf-8", "replace")] = texts[start : texts.index(b"\0", start)].decode("utf-8")
    return found
