"""Pieces that BART's line shares (BART, Marian, Whisper): its layers, their keys, and checks of the config."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.nn.attention import Attention
from jaxformers.nn.cross import OptionalCrossAttention
from jaxformers.nn.layerdrop import LayerDropBlock
from jaxformers.nn.linear import Linear
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import Normal, PaddedNormal
from jaxformers.nn.residual import Residual
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation

SIDES = ("encoder", "decoder")


def layers(
    c: Any, side: str, norm: str = "after", attention: type[Attention] = Attention, clamp: nn.Module | None = None
) -> Stack:
    """The layers of one side. norm: the slot of each residual that holds its norm, "pre" or "after".

    clamp: follows the whole layer. Decoder layers also look at the encoder; keys have a bias if `attention`'s have.
    """
    heads = getattr(c, f"{side}_attention_heads")
    dim, rate = c.d_model // heads, c.attention_dropout
    common: dict[str, Any] = {norm: LayerNorm(), "dropout": c.dropout}
    attn = attention(heads, heads, dim, qkv_bias=True, out_bias=True, dropout=rate)
    steps = [Residual("attn", attn, **common)]
    if side == "decoder":
        k_bias = None if attention is Attention else False
        cross = OptionalCrossAttention(heads, dim, qkv_bias=True, out_bias=True, k_bias=k_bias, dropout=rate)
        steps.append(Residual("cross", cross, **common))
    mlp = Mlp(getattr(c, f"{side}_ffn_dim"), activation(c.activation_function), dropout=c.activation_dropout)
    steps.append(Residual("mlp", mlp, **(common if clamp is None else {**common, "after": clamp})))
    block = LayerDropBlock(tuple(steps), rate=getattr(c, f"{side}_layerdrop") or 0.0)
    return Stack(Layers((block,) * getattr(c, f"{side}_layers")))


def layer_rules(side: str, ours: str, norm: str = "after") -> dict[str, str]:
    """Keys of one side's layers; `ours` is where they sit in our tree."""
    mine, theirs = f"{ours}.{{i}}.".lstrip("."), f"{side}.layers.{{i}}."
    rules = {
        f"{mine}{a}.{p}_proj": f"{theirs}{b}.{q}_proj"
        for a, b in (("attn", "self_attn"), ("cross", "encoder_attn"))
        for p, q in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out"))
    }
    norms = {"attn": "self_attn_layer_norm", "cross": "encoder_attn_layer_norm", "mlp": "final_layer_norm"}
    rules |= {f"{mine}{a}_{norm}": f"{theirs}{b}" for a, b in norms.items()}
    return rules | {f"{mine}mlp.fc1": f"{theirs}fc1", f"{mine}mlp.fc2": f"{theirs}fc2"}


def table_rules(shared: bool) -> KeyMap:
    """Keys of the word tables: one for both sides, or one each with a third that nothing reads."""
    copies = tuple(rf"^{side}\.embed_tokens\." for side in SIDES)
    if shared:
        also = tuple(f"{side}.embed_tokens" for side in SIDES)
        return KeyMap({"shared": Part("shared", also=also)}, ignore=copies)
    own: Mapping[str, Part] = {f"{s}.embed": Part(f"{s}.embed_tokens", also=("shared",)) for s in SIDES}
    return KeyMap(own, ignore=(r"^shared\.",))


def own_head(c: Any, words: int) -> nn.Module | None:
    """A language-model head of its own, or None where the word table serves."""
    return None if c.tie_word_embeddings else Linear(words, axes=("embed", "vocab"))


def embedding_scale(c: Any) -> float:
    """What embeddings are multiplied with."""
    return math.sqrt(c.d_model) if c.scale_embedding else 1.0


def init_scheme(c: Any) -> Mapping[str, Callable]:
    """Normal values, zeros for the padding token."""
    return {
        r"(shared|embed)\.embedding$": PaddedNormal(c.init_std, c.pad_token_id),
        r"(kernel|embedding)$": Normal(c.init_std),
    }


def check_heads(c: Any) -> None:
    """Raise ConfigError unless the width divides into heads on both sides."""
    for name in ("encoder_attention_heads", "decoder_attention_heads"):
        if c.d_model % getattr(c, name):
            raise ConfigError(f"d_model {c.d_model} is not a multiple of {name} {getattr(c, name)}")


def check_eos(c: Any) -> int:
    """The end-of-text token. Raises ConfigError unless it is one."""
    if not isinstance(c.eos_token_id, int):
        raise ConfigError(f"classification needs one eos_token_id, to find each text's end; found {c.eos_token_id!r}")
    return c.eos_token_id
