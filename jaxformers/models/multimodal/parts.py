"""Pieces that two-tower families share: their layers, tables, key tables and the checks of their configs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flax import linen as nn

from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.nn.attention import Attention
from jaxformers.nn.embed import Embed
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.residual import prenorm
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation

TOWER_KEYS = KeyMap(
    {
        "layers.{i}.attn_pre": "encoder.layers.{i}.layer_norm1",
        "layers.{i}.attn.o_proj": "encoder.layers.{i}.self_attn.out_proj",
        "layers.{i}.attn.{*}": "encoder.layers.{i}.self_attn.{*}",
        "layers.{i}.mlp_pre": "encoder.layers.{i}.layer_norm2",
        "layers.{i}.mlp.{*}": "encoder.layers.{i}.mlp.{*}",
    },
    ignore=(r"^embeddings\.position_ids$",),
)
TEXT_KEYS = TOWER_KEYS | KeyMap(
    {
        "embed": "embeddings.token_embedding",
        "positions": "embeddings.position_embedding",
        "norm": "final_layer_norm",
    }
)
IMAGE_KEYS = TOWER_KEYS | KeyMap(
    {
        "patches": "embeddings.patch_embedding",
        "positions.table": Part("embeddings.position_embedding.weight", exact=True),
    }
)


def check_heads(c: Any) -> None:
    """Raise ConfigError unless hidden_size splits into heads."""
    if c.hidden_size % c.num_attention_heads:
        raise ConfigError(
            f"hidden_size {c.hidden_size} is not a multiple of num_attention_heads {c.num_attention_heads}"
        )


def tower_stack(c: Any) -> Stack:
    """The layers of a tower: a norm before each branch, biases everywhere."""
    heads = c.num_attention_heads
    dim = c.hidden_size // heads
    attn = Attention(heads, heads, dim, qkv_bias=True, out_bias=True, dropout=c.attention_dropout or 0.0)
    block = prenorm(attn, Mlp(c.intermediate_size, activation(c.hidden_act)), LayerNorm(c.layer_norm_eps))
    return Stack(Layers((block,) * c.num_hidden_layers))


def tower_tables(c: Any) -> tuple[Embed, Embed]:
    """The tables of words and positions."""
    return Embed(c.vocab_size, c.hidden_size), Embed(c.max_position_embeddings, c.hidden_size, axes=(None, "embed"))


def nested(rules: Mapping[str, Callable], *names: str) -> dict[str, Callable]:
    """Initialisation rules for a part of a model whose path matches one of `names`."""
    root = rf"^(?:{'|'.join(names)})"
    return {
        rf"{root}\.{pattern[1:]}" if pattern.startswith("^") else rf"{root}(?=\.).*(?:{pattern})": init
        for pattern, init in rules.items()
    }


def anywhere(keys: KeyMap, ours: str, theirs: tuple[str, ...]) -> KeyMap:
    """The table of a part at `ours`, written at the first of `theirs` and read at any of them."""
    first, *others = (keys.under(ours, place) for place in theirs)
    rules: dict[str, str | Part] = {}
    for name, value in first.rules.items():
        part = value if isinstance(value, Part) else Part(value)
        more = [p if isinstance(p, Part) else Part(p) for p in (o.rules[name] for o in others)]
        rules[name] = replace(part, also=part.also + tuple(k for p in more for k in (p.key, *p.also)))
    return KeyMap(rules, first.ignore + tuple(i for o in others for i in o.ignore))


def same(c: Any, backbone: nn.Module) -> nn.Module:
    """The base model itself, for tasks that are its second name."""
    return backbone
