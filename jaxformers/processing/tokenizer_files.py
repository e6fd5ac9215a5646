"""A tokenizer's folder, read and written: tokenizer.json, tokenizer_config.json, special tokens, chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.padding import UNLIMITED
from jaxformers.processing.settings import Settings
from jaxformers.processing.special_tokens import EXTRA, NAMES, as_token
from jaxformers.processing.tokenizer import Tokenizer
from jaxformers.processing.tokenizer_backend import (
    build_backend,
    listed_tokens,
    model_kind,
    read_backend,
    recipe_for,
)
from jaxformers.processing.tokenizer_choice import GENERIC, choose_class
from jaxformers.processing.tokenizer_classes import AS_WRITTEN, RECIPES, Recipe
from jaxformers.processing.tokenizer_kinds import kind_of
from jaxformers.processing.vocabulary_files import Source, read_vocabulary

BACKEND, CONFIG = "tokenizer.json", "tokenizer_config.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
# Keys that save_pretrained writes anew, or that belong to the place a tokenizer was loaded from.
NOT_CARRIED = {"added_tokens_decoder", "chat_template", "name_or_path", "tokenizer_file", "special_tokens_map_file"} | {
    "add_bos_token",
    "add_eos_token",
    "auto_map",
    *EXTRA,
}


def load_tokenizer(path: Path, overrides: Mapping[str, Any], kind: type[Tokenizer]) -> Tokenizer:
    """Load a folder or a single tokenizer.json. Raises CheckpointError when files are missing or damaged."""
    folder = path if path.is_dir() else path.parent
    config = _read_json(folder / CONFIG) if path.is_dir() else {}
    model_config = _read_json(folder / "config.json") if path.is_dir() else {}
    own = kind_of(choose_class(config, model_config, False, overrides.get("tokenizer_class")))
    if own is not None and not own.is_fast:
        return load_python(own, path, config, overrides)
    name, recipe, source = _source(path, config, model_config, overrides)
    if source.text is not None:
        # transformers leaves bos and eos to tokenizer.json's own post-processor unless the caller says otherwise.
        config = {key: value for key, value in config.items() if key not in ("add_bos_token", "add_eos_token")}
    legacy = _special_tokens_map(folder, config) if path.is_dir() else {}
    options = {**recipe.tokens, **source.tokens, **config, **legacy, **overrides}
    options |= listed_tokens(source, {**config, **overrides}, legacy)
    backend, kept = build_backend(source, recipe, options)
    if "added_tokens_decoder" not in options and path.is_dir():
        kept = _added_tokens_file(folder, options) | kept
    named, extra = _special_tokens(name, options, {token.content: token for token in kept.values()})
    for token, flags in recipe.flags.items():
        if isinstance(named[token], str):
            named[token] = tokenizers.AddedToken(named[token], **flags)
    settings = _settings(name, recipe, backend, options)
    if backend.padding and "pad_token" not in options:
        named["pad_token"] = backend.padding["pad_token"]
    settings.named, settings.extra, settings.name_or_path = named, extra, str(path)
    settings.chat_template = overrides.get("chat_template") or _chat_template(folder, config)
    tokenizer = (own or kind)(backend, settings)
    _add_missing(tokenizer, kept)
    if {"add_bos_token", "add_eos_token"} & set(options) or backend.post_processor is None:
        tokenizer.update_post_processor()
    if recipe.finish is not None and recipe.model == model_kind(backend):
        recipe.finish(tokenizer)
    return tokenizer


def _source(
    path: Path, config: Mapping[str, Any], model_config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[str, Recipe, Source]:
    """Choose the class, and read tokenizer.json or, without it, the files with the class's vocabulary."""
    file = path / BACKEND if path.is_dir() else path
    override = overrides.get("tokenizer_class")
    if file.is_file():
        text = _read_text(file)
        name = choose_class(config, model_config, '"ByteLevel"' in text, override)
        return name, RECIPES.get(name, AS_WRITTEN), read_backend(file, text)
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist: give a folder with a tokenizer's files, or its {BACKEND}")
    named = override or config.get("tokenizer_class") or model_config.get("tokenizer_class")
    name, recipe = recipe_for(choose_class(config, model_config, False, override), path, named)
    options = {**recipe.tokens, **config, **overrides}
    return name, recipe, read_vocabulary(path, name, recipe, options, model_config.get("model_type"))


def _settings(name: str, recipe: Recipe, backend: tokenizers.Tokenizer, options: Mapping[str, Any]) -> Settings:
    """Return what the options say beside special tokens and templates."""
    truncation, padding = backend.truncation or {}, backend.padding or {}
    return Settings(
        named={},
        extra=[],
        class_name=GENERIC if name == GENERIC else f"{name}Tokenizer",
        model_max_length=options.get("model_max_length") or options.get("max_len") or UNLIMITED,
        padding_side=options.get("padding_side") or padding.get("direction") or recipe.padding_side,
        truncation_side=options.get("truncation_side") or truncation.get("direction") or "right",
        model_input_names=tuple(options.get("model_input_names") or recipe.inputs),
        clean_up_tokenization_spaces=bool(options.get("clean_up_tokenization_spaces", False)),
        force_clean_up=bool(options.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")),
        split_special_tokens=bool(options.get("split_special_tokens", False)),
        add_bos_token=bool(options.get("add_bos_token", False)),
        add_eos_token=bool(options.get("add_eos_token", False)),
        options=options,
        word_end=recipe.word_end,
    )


def load_python(kind: Any, path: Path, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Tokenizer:
    """Load a tokenizer that is written in Python."""
    from jaxformers.processing.python_files import load_python_tokenizer  # it reads files with this module

    return load_python_tokenizer(kind, path, config, overrides)


def _special_tokens(
    class_name: str, options: Mapping[str, Any], added: Mapping[str, tokenizers.AddedToken]
) -> tuple[dict[str, Any], list[Any]]:
    """Return named and extra special tokens; a name like image_token is the model's own."""
    named: dict[str, Any] = dict.fromkeys(NAMES)
    extra = options.get(EXTRA[0]) or options.get(EXTRA[1]) or []
    own = {key: value for key, value in options.items() if key.endswith("_token") and key not in NAMES}
    own |= options.get("model_specific_special_tokens") or {}
    if isinstance(extra, Mapping):
        own, extra = {**own, **extra}, []
    for key, value in {**{name: options.get(name) for name in NAMES}, **own}.items():
        token = as_token(value)
        if isinstance(token, (str, tokenizers.AddedToken)):
            named[key] = added.get(str(token), token)
        elif token is not None and key in NAMES:
            raise CheckpointError(f"{CONFIG}: {key} must be a string or an added token, found {value!r}")
    extra = [as_token(token) for token in extra]
    if class_name == "T5" and EXTRA[0] not in options and EXTRA[1] not in options:
        extra = [f"<extra_id_{i}>" for i in range(options.get("extra_ids", 100))]
    return named, extra


def _add_missing(tokenizer: Tokenizer, kept: Mapping[int, tokenizers.AddedToken]) -> None:
    """Add tokens the backend lacks, or holds with other flags, in the order of their ids; then special tokens."""
    present = {repr(token) for token in tokenizer.added_tokens_decoder.values()}
    adding: list[Any] = [token for _, token in sorted(kept.items()) if repr(token) not in present]
    names = {*tokenizer.added_tokens_encoder, *map(str, adding)}
    special = set(tokenizer.special_tokens_map.values())
    for token in [*tokenizer._named.values(), *tokenizer._extra]:
        # Of two that differ in their flags alone both are added, and the second one's flags stay.
        if token is not None and str(token) not in names and token not in adding:
            adding.append(token)
    adding = [tokenizers.AddedToken(token, special=True) if isinstance(token, str) else token for token in adding]
    for token in adding:
        token.special = token.special or str(token) in special
    tokenizer.add_tokens(adding)


def _special_tokens_map(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the files that were used before tokenizer_config.json listed every added token."""
    if "added_tokens_decoder" in options:
        return {}
    found = {}
    for key, value in _read_json(folder / "special_tokens_map.json").items():
        if isinstance(value, dict) and "content" in value:
            value = tokenizers.AddedToken(
                **{k: v for k, v in value.items() if k not in ("special", "__type")}, special=True
            )
        found[key] = value
    if EXTRA[1] in found and (options.get(EXTRA[0]) or options.get(EXTRA[1])):
        found.pop(EXTRA[1])
    return found


def _added_tokens_file(folder: Path, options: Mapping[str, Any]) -> dict[int, tokenizers.AddedToken]:
    """Read the oldest list of added tokens, ids by text."""
    listed = [options.get(name) for name in NAMES]
    extra = options.get(EXTRA[0]) or options.get(EXTRA[1])
    listed += extra if isinstance(extra, (list, tuple)) else []
    special = {str(as_token(token)) for token in listed if token}
    return {
        index: tokenizers.AddedToken(text, normalized=text not in special, special=text in special)
        for text, index in _read_json(folder / "added_tokens.json").items()
    }


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | dict[str, str] | None:
    """Find the chat templates: files first, then tokenizer_config.json, then a processor's chat_template.json."""
    found = {file.stem: _read_text(file) for file in sorted((folder / TEMPLATES).glob("*.jinja"))}
    if (folder / TEMPLATE).is_file():
        found = {"default": _read_text(folder / TEMPLATE), **found}
    if found:
        return found["default"] if list(found) == ["default"] else found
    own = config.get("chat_template") or _read_json(folder / "chat_template.json").get("chat_template")
    return {entry["name"]: entry["template"] for entry in own} if isinstance(own, list) else own


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> tuple[str, ...]:
    """Write everything transformers or `load_tokenizer` needs to build the same tokenizer."""
    settings = tokenizer._settings
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in settings.options.items() if key not in NOT_CARRIED and _is_json(value)}
    config |= tokenizer.special_tokens_map | {
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "model_input_names": tokenizer.model_input_names,
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        "split_special_tokens": tokenizer.split_special_tokens,
        "tokenizer_class": _class_to_save(tokenizer),
    }
    config |= tokenizer.saved_options()
    if tokenizer.extra_special_tokens:
        config["extra_special_tokens"] = tokenizer.extra_special_tokens
    texts = {
        **{folder / name: text for name, text in tokenizer.vocabulary_files().items()},
        folder / CONFIG: json.dumps(config, ensure_ascii=False, indent=2, sort_keys=True) + "\n",
    }
    templates = tokenizer.chat_template
    for name, template in ({"default": templates} if isinstance(templates, str) else templates or {}).items():
        file = folder / TEMPLATE if name == "default" else folder / TEMPLATES / f"{name}.jinja"
        if name != "default" and file.resolve().parent != (folder / TEMPLATES).resolve():
            raise ValueError(f"{name!r} cannot name a chat template: it is no file name")
        texts[file] = template
    for file, text in texts.items():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return tuple(map(str, texts))


def _class_to_save(tokenizer: Tokenizer) -> str:
    """Return the class to load the files with: one that forgets bos and eos gives way to the general one."""
    name = tokenizer._settings.class_name
    forgets = name == "GPTNeoXTokenizer" and (tokenizer.add_bos_token or tokenizer.add_eos_token)
    return GENERIC if forgets else name


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error


def _read_json(file: Path) -> dict[str, Any]:
    """Return a JSON object, empty when there is no such file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} must hold a JSON object, found {type(value).__name__}")
    return value
