"""Folders without tokenizer.json: the backend from the vocabulary files that a tokenizer class reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models

from jaxformers.core.errors import CheckpointError
from jaxformers.processing import sentencepiece_backend as spm
from jaxformers.processing.special_tokens import EXTRA
from jaxformers.processing.tiktoken_files import is_tiktoken, tiktoken_backend
from jaxformers.processing.tokenizer_classes import Recipe

MODELS = ("tokenizer.model", "tiktoken.model")  # what transformers takes before a class's own file
ELSEWHERE = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "*.model", "*.tiktoken")
WORDS, PAIRS, MERGES = "vocab.txt", "vocab.json", "merges.txt"


@dataclass(frozen=True)
class Source:
    """Where a tokenizer's vocabulary comes from."""

    file: Path
    backend: Tokenizer
    text: str | None = None  # the backend's JSON, where it was read from that
    whole: bool = False  # the backend is the pipeline already, and the class rebuilds nothing
    tokens: Mapping[str, Any] = field(default_factory=dict)  # options where the other files give none
    extra: list[Any] | None = None  # special tokens that the vocabulary lists
    added: Mapping[int, AddedToken] = field(default_factory=dict)


def read_vocabulary(
    folder: Path, name: str, recipe: Recipe, options: Mapping[str, Any], model_type: str | None
) -> Source:
    """Build the backend of class `name`. Raises CheckpointError when its files are missing, damaged or unfit."""
    if recipe.model == "WordPiece":
        return _word_pieces(folder / WORDS, folder, name)
    file = _model_file(folder, recipe)
    if file is not None and is_tiktoken(file):
        return _tiktoken(file, options, model_type)
    if file is not None and recipe.model is None:
        return _plain(file, options)
    if file is not None and recipe.sentencepiece:
        return _of_class(file, recipe, options)
    if recipe.model == "BPE" and not recipe.sentencepiece:
        return _pairs(folder, name)
    raise CheckpointError(_missing(folder, name, " or ".join(recipe.sentencepiece or MODELS)))


def _model_file(folder: Path, recipe: Recipe) -> Path | None:
    """Return the SentencePiece or tiktoken file; one under another class's name only if it is alone."""
    for file in (folder / name for name in (*MODELS, *recipe.sentencepiece)):
        if file.is_file():
            return file
    found = {file for pattern in ELSEWHERE for file in folder.glob(pattern) if file.is_file()}
    return found.pop() if len(found) == 1 else None


def _word_pieces(file: Path, folder: Path, name: str) -> Source:
    if not file.is_file():
        raise CheckpointError(_missing(folder, name, WORDS))
    vocabulary = _read(file, models.WordPiece.read_file, str(file))
    return Source(file, Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")))


def _pairs(folder: Path, name: str) -> Source:
    if absent := [file for file in (PAIRS, MERGES) if not (folder / file).is_file()]:
        raise CheckpointError(_missing(folder, name, " and ".join(absent)))
    file = folder / PAIRS
    vocabulary, merges = _read(file, models.BPE.read_file, str(file), str(folder / MERGES))
    return Source(file, _read(file, lambda: Tokenizer(models.BPE(vocabulary, merges))))


def _of_class(file: Path, recipe: Recipe, options: Mapping[str, Any]) -> Source:
    """Take pieces and replacements only: the class has a pipeline of its own."""
    model = spm.load_sentencepiece(file)
    vocabulary = spm.vocabulary_of(model)
    extra = spm.own_tokens(model)
    if recipe.arrange is not None:
        vocabulary, extra = recipe.arrange(vocabulary, extra, options)
    backend = _read(file, spm.bare_backend, str(recipe.model), model, vocabulary)
    return Source(file, backend, tokens={"unk_id": model.unk_id}, extra=extra)


def _plain(file: Path, options: Mapping[str, Any]) -> Source:
    model = spm.load_sentencepiece(file)
    backend = _read(file, spm.plain_backend, model, _declared(options))
    tokens = {
        name: piece
        for name, index, piece in (
            ("bos_token", model.bos_id, model.bos_piece or "<s>"),
            ("eos_token", model.eos_id, model.eos_piece or "</s>"),
            ("unk_token", model.unk_id, model.unk_piece or "<unk>"),
        )
        if index >= 0
    }
    return Source(file, backend, whole=True, tokens=tokens, extra=spm.own_tokens(model))


def _tiktoken(file: Path, options: Mapping[str, Any], model_type: str | None) -> Source:
    """Take the file and, behind it, the declared tokens with higher ids; gaps between them are reserved."""
    backend = _read(file, tiktoken_backend, file, model_type)
    declared, size = _declared(options), backend.get_vocab_size()
    extra = options.get(EXTRA[0]) or options.get(EXTRA[1]) or ()
    last = max(declared, default=-1)
    tokens = [declared.get(index, f"<|reserved_token_{index}|>") for index in range(size, last + 1)]
    tokens += [str(token) for token in extra if str(token) not in tokens]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])
    return Source(file, backend, whole=True)


def _declared(options: Mapping[str, Any]) -> dict[int, str]:
    """Return the texts that tokenizer_config.json's added_tokens_decoder gives to ids."""
    declared = options.get("added_tokens_decoder") or {}
    return {int(i): token["content"] if isinstance(token, dict) else str(token) for i, token in declared.items()}


def _read(file: Path, function: Any, *args: Any) -> Any:
    """Call what may refuse a file's content; the library raises bare Exception."""
    try:
        return function(*args)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{file} holds no vocabulary that can be read: {error}") from error


def _missing(folder: Path, name: str, needed: str) -> str:
    kinds = (".txt", ".model", ".json", ".tiktoken", ".spm")
    found = sorted(file.name for file in folder.iterdir() if file.suffix in kinds)
    return (
        f"{folder} has no tokenizer.json, so its {name} tokenizer needs {needed}; found {found}. "
        "Add the file, or name the class that wrote these files with tokenizer_class="
    )
