"""Tokenizer classes that do more than the general one, by transformers' names."""

from __future__ import annotations

from importlib import import_module

from jaxformers.processing.tokenizer import Tokenizer

# Name without "Tokenizer": its module in this folder. The classes import what loads them, so they are found late.
MODULES = {"ByT5": "byt5", "Canine": "canine", "Wav2Vec2CTC": "ctc", "Whisper": "whisper_tokenizer"} | {
    "Marian": "marian",
    "Siglip": "siglip",
}


def kind_of(name: str) -> type[Tokenizer] | None:
    """Return the class for a name such as "ByT5"; None when the general `Tokenizer` is all that it takes."""
    if name not in MODULES:
        return None
    return getattr(import_module(f"jaxformers.processing.{MODULES[name]}"), f"{name}Tokenizer")
