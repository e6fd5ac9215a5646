"""From a tokenizer's source, tokenizer.json or vocabulary files, to the backend that its class makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.special_tokens import EXTRA, as_token
from jaxformers.processing.tokenizer_choice import GENERIC, short_name
from jaxformers.processing.tokenizer_classes import AS_WRITTEN, RECIPES, Recipe
from jaxformers.processing.vocabulary_files import MERGES, PAIRS, Source


def read_backend(file: Path, text: str) -> Source:
    """Parse tokenizer.json. Raises CheckpointError when it is none."""
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(
            f"{file} is not a tokenizer that tokenizers {tokenizers.__version__} reads: {error}"
        ) from error
    return Source(file, backend, text=text, added=backend.get_added_tokens_decoder())


def recipe_for(name: str, folder: Path, named: str | None) -> tuple[str, Recipe]:
    """Return the class that can read a folder's vocabulary files, and how.

    A type that takes tokenizer.json as it is has no rules for vocab.json and merges.txt; the class in its files has.
    """
    recipe = RECIPES.get(name, AS_WRITTEN)
    if name == GENERIC and named and (folder / PAIRS).is_file() and (folder / MERGES).is_file():
        name = short_name(named)
        recipe = RECIPES.get(name, AS_WRITTEN)
    return name, recipe


def build_backend(
    source: Source, recipe: Recipe, options: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[int, tokenizers.AddedToken]]:
    """Build the backend, through the class's recipe if it has one, and the added tokens it is to hold."""
    declared = options.get("added_tokens_decoder")
    kept = (
        {int(index): as_token(token) for index, token in declared.items()}
        if declared is not None
        else dict(source.added)
    )
    if source.whole or recipe.model is None or recipe.model != model_kind(source.backend):
        return source.backend, kept
    spec = json.loads(source.text or source.backend.to_str())
    # The class starts without added tokens and adds them again later, with the flags tokenizer_config.json gives.
    spec["added_tokens"] = []
    spec["model"].update(recipe.model_options)
    if recipe.adapt is not None:
        recipe.adapt(spec["model"], options)
    try:
        rebuilt = tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{source.file} cannot serve this tokenizer class: {error}") from error
    if recipe.rebuild is not None:
        recipe.rebuild(rebuilt, options)
    return rebuilt, kept


def listed_tokens(source: Source, options: Mapping[str, Any], legacy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extra special tokens a vocabulary lists, unless the files beside it list their own.

    `legacy` is special_tokens_map.json, whose older spelling does not count.
    """
    if source.extra is None or any(name in options for name in EXTRA) or EXTRA[0] in legacy:
        return {}
    return {EXTRA[0]: source.extra, EXTRA[1]: None}


def model_kind(backend: tokenizers.Tokenizer) -> str:
    """Return "BPE", "Unigram", "WordPiece" or "WordLevel"."""
    return type(backend.model).__name__
