"""A processor: the tokenizer and the image processor or feature extractor of one model, held and saved together."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from jaxformers.processing.tokenizer import Tokenizer

FILE, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"


class Processor:
    """Holds parts by name, `processor.tokenizer`; decodes with the tokenizer and saves all parts in one folder.

    A subclass names its `parts`, in the order of its arguments, and its own `options`, which its file holds.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()
    chat_template: str | dict[str, str] | None
    tokenizer: Tokenizer

    def __init__(self, *parts: Any, chat_template: Any = None, **named: Any):
        given = {**dict(zip(self.parts, parts, strict=False)), **named}
        if len(parts) > len(self.parts) or set(given) != set(self.parts):
            raise TypeError(
                f"{type(self).__name__} is made of {', '.join(self.parts)}; got {', '.join(given) or 'none'}"
            )
        for name, part in given.items():
            setattr(self, name, part)
        tokenizer = given.get("tokenizer")
        self.chat_template = getattr(tokenizer, "chat_template", None) if chat_template is None else chat_template

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], raw: Mapping[str, Any], **overrides: Any) -> Processor:
        """Build from loaded parts and the contents of processor_config.json; overrides replace options."""
        known = ("chat_template", *cls.options)
        if unknown := [name for name in overrides if name not in known]:
            raise TypeError(f"{cls.__name__} has no option {', '.join(unknown)}; it has {', '.join(known)}")
        own = {name: raw[name] for name in known if raw.get(name) is not None}
        return cls(**parts, **{**own, **overrides})

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """Return the text of ids; the arguments are the tokenizer's."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """Return the text of each row of ids; the arguments are the tokenizer's."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """The names of what a call can return."""
        return [name for part in self.parts for name in getattr(self, part).model_input_names]

    def to_dict(self) -> dict[str, Any]:
        """The contents of processor_config.json: the own options and all parts but the tokenizer."""
        own = {name: getattr(self, name) for name in self.options if getattr(self, name) is not None}
        parts = {name: getattr(self, name).to_dict() for name in self.parts if name != "tokenizer"}
        return {**own, **parts, "processor_class": type(self).__name__}

    def save_pretrained(self, folder: str | Path) -> list[str]:
        """Write every part and processor_config.json, for transformers 4 and 5; returns the paths written."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written: list[str] = []
        if "tokenizer" in self.parts:
            kept = self.tokenizer.chat_template
            try:
                self.tokenizer.chat_template = self.chat_template
                written += self.tokenizer.save_pretrained(folder)
            finally:
                self.tokenizer.chat_template = kept
        contents = self.to_dict()
        files = {FILE: contents}
        # Older libraries look for the other part in a file of its own.
        for name in self.parts:
            if name != "tokenizer":
                files[PREPROCESSOR] = {**contents[name], "processor_class": type(self).__name__}
        for name, value in files.items():
            text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8", newline="")
            written.append(str(folder / name))
        return written

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={type(getattr(self, name)).__name__}" for name in self.parts)
        return f"{type(self).__name__}({parts})"


def text_options(tokenizer: Tokenizer) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of a tokenizer call's options, and the values that tokenizer_config.json gives some of them."""
    names = tuple(n for n, p in inspect.signature(tokenizer.__call__).parameters.items() if p.kind == p.KEYWORD_ONLY)
    stored = {name: tokenizer.options[name] for name in names if tokenizer.options.get(name) is not None}
    # What the tokenizer has as an attribute may have been changed since.
    return names, {name: getattr(tokenizer, name, value) for name, value in stored.items()}
