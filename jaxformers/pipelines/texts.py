"""Read texts from a file or stdin: one per line, or one field of every JSON line."""

import json
import sys
from pathlib import Path


def read_texts(source: str, field: str | None = None) -> list[tuple[int, str]]:
    """Line numbers and texts; `-` is stdin, blank lines are left out.

    With `field`, or a name that ends in .jsonl, each line is a JSON object. Raises ValueError naming the line.
    """
    name = "stdin" if source == "-" else source
    data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    field = field or ("text" if name.endswith((".jsonl", ".ndjson")) else None)
    found = []
    # Not splitlines(): it also breaks at characters that may stand inside a JSON string.
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}, line {number}: found bytes that are not UTF-8 ({error.reason})") from error
        if text:
            found.append((number, text if field is None else json_field(name, number, text, field)))
    if not found:
        raise ValueError(f"{name}: found no text; expected one per line")
    return found


def json_field(name: str, number: int, line: str, field: str) -> str:
    """One string out of a JSON line."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{name}, line {number}: not JSON ({error})") from error
    value = record.get(field) if isinstance(record, dict) else None
    if not isinstance(value, str):
        keys = sorted(record)[:8] if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{name}, line {number}: no text in field {field!r}; found {keys}, choose one with --field")
    return value
