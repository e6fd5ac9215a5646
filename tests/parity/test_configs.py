"""Configs: defaults equal transformers', and both read what the other writes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from jaxformers.core.config import Config
from jaxformers.core.frozen import thaw
from jaxformers.models import MODEL_TYPES, family_of, read_config

# Fields of transformers' base class that say nothing about an architecture.
GENERIC = {"transformers_version", "_name_or_path", "model_type", "id2label", "label2id", "output_attentions"}


def plain(value: Any) -> Any:
    """Comparable JSON, nested configs without the keys that transformers fills in."""
    if isinstance(value, Config):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "extra"}
        return {**thaw(value.extra), **fields}
    value = thaw(value)
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def theirs(name: str) -> Any:
    """A default config of transformers."""
    return transformers.CONFIG_MAPPING[name]()


def same(ours: Any, reference: Any) -> bool:
    """Equal, where nested configs may carry generic keys on one side."""
    if isinstance(reference, dict) and isinstance(ours, dict):
        return all(same(ours.get(k), v) for k, v in reference.items() if k not in GENERIC)
    if isinstance(reference, (list, tuple)) and isinstance(ours, (list, tuple)):
        return len(ours) == len(reference) and all(same(a, b) for a, b in zip(ours, reference, strict=True))
    return ours == reference


@pytest.mark.parametrize("name", sorted(MODEL_TYPES))
def test_defaults(name: str) -> None:
    """Every field of transformers' config has our field with the same default."""
    ours, reference = family_of(name).config(), theirs(name).to_dict()
    for key, value in reference.items():
        if key in GENERIC:
            continue
        assert hasattr(ours, key), f"{name} has no field {key} (transformers' default {value!r})"
        nested = isinstance(value, dict) and value.get("model_type") not in {None, *MODEL_TYPES}
        if nested and getattr(ours, key) is None:
            continue  # a nested type that we lack is not made up
        assert same(plain(getattr(ours, key)), value), f"{name}.{key}: {getattr(ours, key)!r}, transformers {value!r}"


@pytest.mark.parametrize("name", sorted(MODEL_TYPES))
def test_round_trip(name: str, tmp_path: Path) -> None:
    """transformers reads what we write as its own config, and we read ours back equal."""
    ours = family_of(name).config()
    written = json.loads(json.dumps(ours.to_json()))
    assert read_config(written).replace(extra={}) == ours
    reference = theirs(name).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(written), encoding="utf-8")
    back = transformers.CONFIG_MAPPING[name].from_json_file(tmp_path / "config.json").to_dict()
    for key, value in reference.items():
        if key not in GENERIC | {"dtype"}:
            assert same(back[key], value), f"{name}.{key}: {back[key]!r} after a round trip, {value!r} before"
