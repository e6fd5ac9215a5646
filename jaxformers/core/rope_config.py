"""Rotary settings: one standard form inside, transformers 4's and 5's spellings outside.

Inside: {"rope_type", "rope_theta", ...} for all layers, or one such dict for each name in `layer_types`.
"""

from collections.abc import Mapping
from typing import Any

from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import thaw

SCALED_FROM_PRETRAINING = ("llama3", "yarn", "longrope")
# Settings of any rope_type that are not numbers.
NOT_NUMBERS = {"rope_type", "type", "truncate", "short_factor", "long_factor", "mrope_section", "finetuned"}


def layer_entries(config: Any, rope: Mapping[str, Any]) -> list[str]:
    """The kinds of layer that have rotary settings of their own; empty when all share one."""
    labels = set(getattr(config, "layer_types", None) or ())
    return [k for k in rope if k in labels or isinstance(rope[k], Mapping)]


def read_rope(config: Any) -> dict[str, Any]:
    """Bring `config.rope_parameters` to the standard form, filling what is missing from the config's other fields."""
    rope = thaw(config.rope_parameters or {})
    theta = getattr(config, "rope_theta", None) or type(config).default_theta
    partial = getattr(config, "partial_rotary_factor", None)
    # transformers obeys this key beside the settings also in types that do not list it.
    original = getattr(config, "original_max_position_embeddings", config.extra.get("original_max_position_embeddings"))

    def standard(entry: dict[str, Any], nested: bool) -> dict[str, Any]:
        old = entry.pop("type", "default")
        kind = entry.setdefault("rope_type", old)
        entry.setdefault("rope_theta", theta)
        if partial is not None:
            entry.setdefault("partial_rotary_factor", partial)
        if kind in SCALED_FROM_PRETRAINING:
            if original is not None and not nested:
                entry["original_max_position_embeddings"] = original
            entry.setdefault("original_max_position_embeddings", config.max_position_embeddings)
        check_numbers(entry)
        return entry

    names = layer_entries(config, rope)
    if not names:
        return standard(rope, nested=False)
    # transformers leaves keys beside the layer entries alone
    return {k: standard(v, nested=True) if k in names and v is not None else v for k, v in rope.items()}


def check_numbers(entry: Mapping[str, Any]) -> None:
    """Raise ConfigError for a rotary setting that is not of its type."""
    for key, value in entry.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key in ("short_factor", "long_factor"):
            if not isinstance(value, list) or not all(isinstance(v, (int, float)) for v in value):
                raise ConfigError(f"rope_parameters[{key!r}] is {value!r}; expected a list of numbers")
        elif key not in NOT_NUMBERS and not number and value is not None:
            raise ConfigError(f"rope_parameters[{key!r}] is {value!r}; expected a number")
    theta = entry["rope_theta"]
    if not isinstance(theta, (int, float)) or theta <= 0:
        raise ConfigError(f"rope_theta is {theta!r}; expected a positive number")


def write_rope(config: Any) -> dict[str, Any]:
    """Return both spellings: rope_parameters (5) and rope_theta, rope_scaling, partial_rotary_factor (4)."""
    rope = thaw(config.rope_parameters)
    out = {"rope_parameters": rope}
    names = layer_entries(config, rope)
    entry = rope if not names else rope.get("full_attention") or rope[names[0]]
    if entry is None:
        return out
    out["rope_theta"] = entry["rope_theta"]
    if "partial_rotary_factor" in entry:
        out["partial_rotary_factor"] = entry["partial_rotary_factor"]
    if not names:  # a rope_scaling key would override the entries of the layers
        scaling = {k: v for k, v in entry.items() if k not in ("rope_theta", "partial_rotary_factor")}
        out["rope_scaling"] = None if entry["rope_type"] == "default" else scaling
    return out
