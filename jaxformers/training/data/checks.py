"""What a loader's arguments must agree on, and what a collator's parameters say."""

import inspect
from collections.abc import Callable
from typing import Any

from jaxformers.training.data.sources import Stream


def takes_draws(collate: Callable) -> bool:
    """Whether a collator is random: it then has a parameter `draws`."""
    try:
        return "draws" in inspect.signature(collate).parameters
    except ValueError:  # a builtin
        return False


def check(loader: Any) -> None:
    """Raise ValueError for arguments that contradict each other."""
    size, count = loader.batch_size, loader.process_count
    if size is not None and (size < 1 or size % count):
        raise ValueError(f"batch_size is {size} for {count} processes; it must be a positive multiple of that number")
    if not 0 <= loader.process_index < count:
        raise ValueError(f"process_index is {loader.process_index}; expected 0..{count - 1}")
    if loader.last not in ("drop", "keep", "fill"):
        raise ValueError(f"last is {loader.last!r}; expected 'drop', 'keep' or 'fill'")
    if isinstance(loader.source, Stream):
        asked = [name for name in ("sampler", "lengths") if getattr(loader, name) is not None]
        asked += ["group_by_length"] if loader.group_by_length else []
        if asked:
            raise ValueError(f"{', '.join(asked)} need a source with a length and rows by number; this one is a stream")
    if loader.batch_sampler is not None:
        others = ("batch_size", "sampler", "pack", "shuffle", "group_by_length")
        given = [name for name in others if getattr(loader, name) not in (None, False)]
        if given or isinstance(loader.source, Stream) or loader.split == "source":
            raise ValueError(f"batch_sampler chooses the rows of an indexed source alone; given are also {given}")
        return
    if size is None and (loader.pack is not None or count > 1 and loader.split == "rows"):
        raise ValueError("batch_size None passes batches on: no packing, and with several processes split='source'")
