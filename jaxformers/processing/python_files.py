"""Folders of tokenizers written in Python: special tokens, added tokens and tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from jaxformers.processing import tokenizer_files as files
from jaxformers.processing.padding import UNLIMITED
from jaxformers.processing.python_tokenizer import PythonTokenizer
from jaxformers.processing.settings import Settings
from jaxformers.processing.special_tokens import as_token


def load_python_tokenizer(
    kind: type[PythonTokenizer], path: Path, config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> PythonTokenizer:
    """Load a folder, or the folder of a file. Raises CheckpointError when what the class needs is missing."""
    folder = path if path.is_dir() else path.parent
    options = {**kind.tokens, **config}
    options = {**options, **files._special_tokens_map(folder, options), **overrides}
    options = kind.prepare({key: as_token(value) for key, value in options.items()})
    alphabet, first = kind.read(folder, options)
    declared = _declared(folder, options)
    name = kind.__name__.removesuffix("Tokenizer")
    named, extra = files._special_tokens(name, options, {token.content: token for token in declared.values()})
    settings = Settings(
        named=named,
        extra=extra,
        class_name=kind.__name__,
        model_max_length=options.get("model_max_length") or options.get("max_len") or UNLIMITED,
        padding_side=options.get("padding_side") or "right",
        truncation_side=options.get("truncation_side") or "right",
        model_input_names=tuple(options.get("model_input_names") or kind.inputs),
        clean_up_tokenization_spaces=bool(options.get("clean_up_tokenization_spaces", False)),
        split_special_tokens=bool(options.get("split_special_tokens", False)),
        chat_template=overrides.get("chat_template") or files._chat_template(folder, config),
        options=options,
        name_or_path=str(path),
    )
    return kind(kind.backend_kind(alphabet, first | declared), settings)


def _declared(folder: Path, options: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Return the added tokens by id, which lie in tokenizer_config.json or, older, in added_tokens.json."""
    declared = options.get("added_tokens_decoder")
    if declared is None:
        return files._added_tokens_file(folder, options)
    return {int(index): as_token(token) for index, token in declared.items()}
