"""Named: the part of AutoTokenizer, AutoProcessor and their like that finds a source and hands over its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from jaxformers.hub.download import resolve

T = TypeVar("T")


class Named(Generic[T]):
    """A name to load by, not an object. Subclasses say which files they read, and how, in `load`."""

    files: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"{name} is not an object: call {name}.from_pretrained(folder_or_hub_id)")

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> T:
        """Load from a local folder or file; overrides replace keys of its files."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> T:
        """Load a folder, a file or a Hub id; overrides replace keys of its files.

        Raises CheckpointError when the source cannot be had or its files are damaged, ConfigError for what is not here.
        """
        hub = dict(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        return cls.load(resolve(source, patterns=cls.files, weights=False, **hub), **overrides)  # type: ignore[arg-type]
