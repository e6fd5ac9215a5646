"""Pieces that the llama line shares: rotary settings, attention, stacks, the key table and config checks."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.nn.attention import Attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.embed import Embed
from jaxformers.nn.param import PaddedNormal
from jaxformers.nn.position import DynamicRope, LongRope, Rope, inverse_frequencies
from jaxformers.nn.residual import Block
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.rope import rotate_halves

LLAMA_KEYS = KeyMap(
    {
        "embed": "embed_tokens",
        "norm": "norm",
        "layers.{i}.attn_pre": "layers.{i}.input_layernorm",
        "layers.{i}.attn.{*}": "layers.{i}.self_attn.{*}",
        "layers.{i}.mlp_pre": "layers.{i}.post_attention_layernorm",
        "layers.{i}.mlp.{*}": "layers.{i}.mlp.{*}",
    },
    ignore=(r"rotary_emb\.inv_freq$",),
)


@dataclass(frozen=True, kw_only=True)
class HeadDimConfig(Config):
    """For types whose transformers config has no head_dim, though their models read one when the file names it."""

    head_dim: int | None = None

    def downgrade(self, written: dict[str, Any]) -> dict[str, Any]:
        if self.head_dim is None:
            del written["head_dim"]  # transformers would take a null for a width
        return written


def head_dim(c: Any) -> int:
    """Width of one head."""
    return getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads


def check_width(c: Any) -> None:
    """Raise ConfigError unless hidden_size splits into heads, for types that insist on it."""
    if c.hidden_size % c.num_attention_heads:
        raise ConfigError(
            f"hidden_size {c.hidden_size} is not a multiple of num_attention_heads {c.num_attention_heads}"
        )


def check_layer_types(c: Any) -> None:
    """Raise ConfigError unless layer_types names full or sliding attention for each layer."""
    unknown = sorted(map(str, set(c.layer_types) - {"full_attention", "sliding_attention"}))
    if unknown:
        raise ConfigError(
            f"layer_types holds {unknown}; {c.model_type} knows 'full_attention' and 'sliding_attention' only"
        )
    if len(c.layer_types) != c.num_hidden_layers:
        raise ConfigError(
            f"layer_types has {len(c.layer_types)} entries for num_hidden_layers {c.num_hidden_layers}; "
            "give one for each layer, or drop layer_types"
        )
    if "sliding_attention" in c.layer_types and c.sliding_window is None:
        raise ConfigError("layer_types has 'sliding_attention', but sliding_window is not set or not in use; set it")


def layer_window(c: Any, layer: int) -> int | None:
    """The window of one layer; None where it sees everything."""
    return c.sliding_window if c.layer_types[layer] == "sliding_attention" else None


def embedding_init(c: Any) -> Mapping[str, Callable]:
    """The word table's scheme: normal, with zeros for the padding token."""
    return {r"(^|\.)embed\.embedding$": PaddedNormal(c.initializer_range, c.pad_token_id)}


def rope(
    c: Any, entry: Mapping[str, Any] | None = None, *, dim: int | None = None, rotate: Callable = rotate_halves
) -> Rope:
    """The rotary spec of a config, or of one `entry` of its rope_parameters. Raises ConfigError for unknown kinds."""
    p = dict(c.rope_parameters if entry is None else entry)
    kind = p.get("rope_type", "default")
    if kind not in ROPES:
        raise ConfigError(f"rope_type {kind!r} is unknown; expected one of {', '.join(ROPES)}")
    dim = head_dim(c) if dim is None else dim
    if kind != "proportional":
        dim = int(dim * p.get("partial_rotary_factor", 1.0))
    try:
        return ROPES[kind](c, p, dim, rotate)
    except KeyError as missing:
        raise ConfigError(f"rope_type {kind!r} needs {missing} in rope_parameters; found {sorted(p)}") from None


def whole_rope(c: Any, entry: Mapping[str, Any] | None = None) -> Rope:
    """The rotary spec of types that rotate whole heads. Raises ConfigError where a partial rotation cannot be meant."""
    p = dict(c.rope_parameters if entry is None else entry)
    kind, part = p.get("rope_type", "default"), p.get("partial_rotary_factor", 1.0)
    if kind == "default":
        p.pop("partial_rotary_factor", None)  # transformers does not read it here
    elif kind != "proportional" and int(head_dim(c) * part) != head_dim(c):
        raise ConfigError(
            f"{c.model_type} rotates whole heads; found partial_rotary_factor {part} with rope_type {kind!r}, remove it"
        )
    return rope(c, p)


def default_rope(c: Any, p: Mapping[str, Any], dim: int, rotate: Callable) -> Rope:
    """Plain rotary frequencies."""
    return Rope(floats(inverse_frequencies(p["rope_theta"], dim)), rotate=rotate)


def linear_rope(c: Any, p: Mapping[str, Any], dim: int, rotate: Callable) -> Rope:
    """Position interpolation: all frequencies divided by `factor`. Source: arXiv:2306.15595."""
    return Rope(floats(inverse_frequencies(p["rope_theta"], dim) / np.float32(p["factor"])), rotate=rotate)


def dynamic_rope(c: Any, p: Mapping[str, Any], dim: int, rotate: Callable) -> Rope:
    """Dynamic NTK scaling beyond max_position_embeddings."""
    table = floats(inverse_frequencies(p["rope_theta"], dim))
    length = c.max_position_embeddings
    return DynamicRope(table, rotate=rotate, base=p["rope_theta"], factor=p["factor"], original=length)


def llama3_rope(c: Any, p: Mapping[str, Any], dim: int, rotate: Callable) -> Rope:
    """Llama 3.1's scaling: long waves divided by `factor`, short ones kept, a smooth step between."""
    table = inverse_frequencies(p["rope_theta"], dim)
    low, high, length = p["low_freq_factor"], p["high_freq_factor"], p["original_max_position_embeddings"]
    wave = np.float32(2 * math.pi) / table
    smooth = (np.float32(length) / wave - np.float32(low)) / np.float32(high - low)
    scaled = table / np.float32(p["factor"])
    out = np.where(wave > length / low, scaled, table)
    between = (wave >= length / high) & (wave <= length / low)
    return Rope(floats(np.where(between, (1 - smooth) * scaled + smooth * table, out)), rotate=rotate)


def yarn_rope(c: Any, p: Mapping[str, Any], dim: int, rotate: Callable) -> Rope:
    """YaRN: interpolate slow frequencies, keep fast ones, and scale attention. Source: arXiv:2309.00071."""
    base, original = p["rope_theta"], p["original_max_position_embeddings"]
    factor = p["factor"] if p["factor"] is not None else c.max_position_embeddings / original
    scale = p.get("attention_factor")
    if scale is None:
        m, m_all = p.get("mscale"), p.get("mscale_all_dim")
        scale = yarn_scale(factor, m) / yarn_scale(factor, m_all) if m and m_all else yarn_scale(factor)

    def turns(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = turns(p.get("beta_fast") or 32), turns(p.get("beta_slow") or 1)
    # transformers reads `truncate` from the top level only, also when the settings are nested by layer type
    if c.rope_parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    table = inverse_frequencies(base, dim)
    return Rope(floats(table / np.float32(factor) * ramp + table * (1 - ramp)), float(scale), rotate)


def yarn_scale(factor: float, weight: float = 1.0) -> float:
    """YaRN's attention temperature for a stretch by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def long_rope(c: Any, p: Mapping[str, Any], dim: int, rotate: Callable) -> Rope:
    """LongRoPE: one list of factors for short sequences and one for long. Source: arXiv:2402.13753."""
    original = p["original_max_position_embeddings"]
    factor = p.get("factor") or c.max_position_embeddings / original
    scale = p.get("attention_factor")
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    power = np.float32(p["rope_theta"]) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))

    def table(factors: Any) -> tuple[float, ...]:
        if len(factors) != dim // 2:
            raise ConfigError(f"LongRoPE has {len(factors)} factors; expected {dim // 2}, half the rotated width")
        return floats(np.float32(1.0) / (np.asarray(factors, np.float32) * power))

    return LongRope(table(p["short_factor"]), float(scale), rotate, long=table(p["long_factor"]), original=original)


def proportional_rope(c: Any, p: Mapping[str, Any], dim: int, rotate: Callable) -> Rope:
    """Frequencies spaced over the whole head, those beyond `partial_rotary_factor` zero."""
    turning = int(p.get("partial_rotary_factor", 1.0) * dim // 2)
    table = inverse_frequencies(p["rope_theta"], dim)[: dim // 2]
    table[turning:] = 0
    return Rope(floats(table / np.float32(p.get("factor", 1.0))), rotate=rotate)


ROPES: dict[str, Callable[..., Rope]] = {
    "default": default_rope,
    "linear": linear_rope,
    "dynamic": dynamic_rope,
    "yarn": yarn_rope,
    "llama3": llama3_rope,
    "longrope": long_rope,
    "proportional": proportional_rope,
}


def floats(values: np.ndarray) -> tuple[float, ...]:
    """A hashable copy."""
    return tuple(float(v) for v in values)


def self_attention(c: Any, kind: type[Attention] = Attention, **changes: Any) -> Attention:
    """Attention as the llama line configures it; `changes` override what a family does otherwise."""
    fields: dict[str, Any] = {
        "heads": c.num_attention_heads,
        "kv_heads": c.num_key_value_heads,
        "head_dim": head_dim(c),
        "dropout": getattr(c, "attention_dropout", None) or 0.0,
    }
    if "rope" not in changes:
        fields["rope"] = whole_rope(c)
    return kind(**{**fields, **changes})


def decoder(
    c: Any, block: Callable[[int], Block], norm: nn.Module | None, embed: nn.Module | None = None, **changes: Any
) -> Decoder:
    """A decoder of `num_hidden_layers` blocks, block(i) being the template of layer i; a plain table if no `embed`."""
    layers = Layers(tuple(block(i) for i in range(c.num_hidden_layers)))
    return Decoder(Embed(c.vocab_size, c.hidden_size) if embed is None else embed, Stack(layers), norm, **changes)
