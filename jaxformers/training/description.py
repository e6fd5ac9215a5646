"""What a checkpoint says about itself: its step, its arrays' shapes and fingerprints, and the trainer's own values."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jaxformers.core.errors import CheckpointError
from jaxformers.training.fingerprint import fingerprints
from jaxformers.training.named import Named

FORMAT = 1
FILE = "checkpoint.json"


class Damaged(Exception):
    """A checkpoint is not whole; the message says what was found."""


@dataclass(frozen=True)
class Description:
    """The content of checkpoint.json.

    arrays: {name: {"shape", "dtype", "fingerprint"}}. extra: the caller's values. best: a step that the limit spares.
    """

    step: int
    arrays: dict[str, dict[str, Any]]
    extra: dict[str, Any]
    best: int | None = None
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """The fields, and a checksum of them."""
        fields = asdict(self)
        return fields | {"crc32": checksum(fields)}

    @classmethod
    def from_json(cls, raw: Any) -> "Description":
        """Undo `to_json`. Raises Damaged unless every value is as it was written."""
        if not isinstance(raw, dict) or raw.get("crc32") != checksum({k: v for k, v in raw.items() if k != "crc32"}):
            raise Damaged(f"{FILE} is not what was written: its checksum differs")
        if raw["format"] != FORMAT:
            raise CheckpointError(
                f"a checkpoint of format {raw['format']} was found, and this version reads {FORMAT}: update jaxformers."
            )
        return cls(**{k: v for k, v in raw.items() if k != "crc32"})

    def check(self, arrays: Named) -> None:
        """Raise Damaged unless arrays are those that were written, bit for bit."""
        found = fingerprints(arrays)
        if wrong := [name for name, was in self.arrays.items() if found[name] != was["fingerprint"]]:
            raise Damaged(f"{len(wrong)} of {len(self.arrays)} arrays are not what was written, {wrong[0]} first")


def describe(step: int, arrays: Named, extra: Mapping[str, Any], best: int | None) -> Description:
    """Describe a state to be saved. Raises CheckpointError if `extra` is not JSON."""
    try:
        extra = json.loads(json.dumps(extra, allow_nan=True))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"what is saved beside the state must be JSON ({error}): turn arrays into lists and numbers first."
        ) from error
    marks = fingerprints(arrays)
    table = {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "fingerprint": marks[name]}
        for name, leaf in arrays.items()
    }
    return Description(step, table, dict(extra), best)


def checksum(fields: Mapping[str, Any]) -> str:
    """CRC-32 of values as JSON, in hexadecimal digits."""
    return f"{zlib.crc32(json.dumps(fields, sort_keys=True).encode()):08x}"
