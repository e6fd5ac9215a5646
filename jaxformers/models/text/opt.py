"""OPT: learned positions that count real tokens only, and words that may be narrower than the layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.keymap import KeyMap
from jaxformers.models import Family, register
from jaxformers.models.text.gpt_parts import gpt_tasks
from jaxformers.models.text.parts import check_width, decoder
from jaxformers.nn.attention import Attention
from jaxformers.nn.bare_norm import BareLayerNorm
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.embed import Embed, LearnedPositions
from jaxformers.nn.layerdrop import LayerDropBlock
from jaxformers.nn.linear import Linear
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import Normal, PaddedNormal
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stem import ProjectedNorm, Stem
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class OPTConfig(Config):
    model_type: ClassVar[str] = "opt"

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    ffn_dim: int = 3072
    max_position_embeddings: int = 2048
    do_layer_norm_before: bool = True
    _remove_final_layer_norm: bool = False
    word_embed_proj_dim: int | None = None
    dropout: float = 0.1
    attention_dropout: float = 0.0
    num_attention_heads: int = 12
    activation_function: str = "relu"
    layerdrop: float = 0.0
    init_std: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 2
    eos_token_id: int | tuple | None = 2
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True

    def resolve(self) -> None:
        self.default("word_embed_proj_dim", self.hidden_size)

    def validate(self) -> None:
        check_width(self)


def count_real(slots: jax.Array, real: jax.Array | None) -> jax.Array:
    """Positions [1|B,T]: how many real tokens came before; -1 for padding, whose row of the table is its own."""
    if real is None:
        return slots[None]
    real = real.astype(jnp.int32)
    return jnp.take(jnp.cumsum(real, axis=1) * real - 1, slots, axis=1)


def opt_norm(c: Any) -> nn.Module:
    """The norm of every place, with or without parameters."""
    return LayerNorm() if c.layer_norm_elementwise_affine else BareLayerNorm()


def opt_block(c: Any) -> Block:
    """One layer, its norms before the branches or after the sums."""
    dim = c.hidden_size // c.num_attention_heads
    attn = Attention(
        c.num_attention_heads,
        c.num_attention_heads,
        dim,
        qkv_bias=c.enable_bias,
        out_bias=c.enable_bias,
        dropout=c.attention_dropout,
    )
    mlp = Mlp(c.ffn_dim, activation(c.activation_function), c.enable_bias)
    place: dict[str, Any] = {"pre" if c.do_layer_norm_before else "after": opt_norm(c)}
    steps = tuple(Residual(n, b, dropout=c.dropout, **place) for n, b in (("attn", attn), ("mlp", mlp)))
    return LayerDropBlock(steps, rate=c.layerdrop) if c.layerdrop else Block(steps)


def opt(c: Any) -> Decoder:
    narrow = c.word_embed_proj_dim != c.hidden_size
    project = Linear(c.hidden_size, axes=(None, "embed")) if narrow else None
    positions = LearnedPositions(c.max_position_embeddings, c.hidden_size, offset=2)
    # Files fine-tuned with early releases lack the last norm.
    norm = opt_norm(c) if c.do_layer_norm_before and not c._remove_final_layer_norm else None
    if narrow:
        norm = ProjectedNorm(Linear(c.word_embed_proj_dim, axes=("embed", None)), norm)
    block = opt_block(c)
    embed = Embed(c.vocab_size, c.word_embed_proj_dim)
    return decoder(c, lambda i: block, norm, embed, stem=Stem(project, positions), positions=count_real)


LAYER = "decoder.layers.{i}."
OPT_KEYS = KeyMap(
    {
        "embed": "decoder.embed_tokens",
        "stem.positions.table": "decoder.embed_positions",
        "stem.project": "decoder.project_in",
        "norm.norm": "decoder.final_layer_norm",
        "norm.project": "decoder.project_out",
        "norm": "decoder.final_layer_norm",
        **{f"layers.{{i}}.attn_{place}": LAYER + "self_attn_layer_norm" for place in ("pre", "after")},
        **{f"layers.{{i}}.mlp_{place}": LAYER + "final_layer_norm" for place in ("pre", "after")},
        "layers.{i}.attn.o_proj": LAYER + "self_attn.out_proj",
        "layers.{i}.attn.{*}": LAYER + "self_attn.{*}",
        "layers.{i}.mlp.{*}": LAYER + "{*}",
    }
)


def opt_init(c: Any) -> Mapping[str, Callable]:
    """OPT calls its deviation init_std; the padding token's row is zero."""
    return {
        r"(^|\.)embed\.embedding$": PaddedNormal(c.init_std, c.pad_token_id),
        r"(kernel|embedding)$": Normal(c.init_std),
    }


register(Family(OPTConfig, "OPTModel", opt, OPT_KEYS, "model", gpt_tasks("OPT", "model", tagger=False), opt_init))
