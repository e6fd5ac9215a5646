"""Falcon: three layouts of fused q, k, v, one or two norms before branches side by side, rotary positions or ALiBi."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.models import Family, register
from jaxformers.models.text.gpt_parts import gpt_tasks, old_width, qkv_by_head
from jaxformers.models.text.parts import check_width, decoder, head_dim, whole_rope
from jaxformers.nn.alibi import RoundedAlibi
from jaxformers.nn.attention import Attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.parallel import Parallel, Path
from jaxformers.nn.residual import Block, Residual
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class FalconConfig(Config):
    model_type: ClassVar[str] = "falcon"

    vocab_size: int = 65024
    hidden_size: int = 4544
    num_hidden_layers: int = 32
    num_attention_heads: int = 71
    num_ln_in_parallel_attn: int | None = None
    layer_norm_epsilon: float | None = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    hidden_dropout: float | None = 0.0
    attention_dropout: float | None = 0.0
    num_kv_heads: int | None = None
    alibi: bool | None = False
    new_decoder_architecture: bool | None = False
    multi_query: bool | None = True
    parallel_attn: bool | None = True
    bias: bool | None = False
    max_position_embeddings: int = 2048
    rope_parameters: FrozenDict | None = None
    bos_token_id: int | None = 11
    eos_token_id: int | tuple | None = 11
    pad_token_id: int | None = None
    ffn_hidden_size: int | None = None
    activation: str | None = "gelu"
    tie_word_embeddings: bool = True

    @classmethod
    def upgrade(cls, raw: dict[str, Any]) -> dict[str, Any]:
        return old_width(raw)

    def resolve(self) -> None:
        self.default("num_kv_heads", self.num_attention_heads)
        self.default("ffn_hidden_size", 4 * self.hidden_size)

    def validate(self) -> None:
        check_width(self)
        check_falcon(self)


def check_falcon(c: FalconConfig) -> None:
    """Raise ConfigError for combinations that transformers' model cannot run either."""
    new, norms = c.new_decoder_architecture, c.num_ln_in_parallel_attn
    if new and not c.parallel_attn:
        raise ConfigError("new_decoder_architecture computes its branches side by side: set parallel_attn=True")
    if new and norms not in (None, 1, 2):
        raise ConfigError(f"num_ln_in_parallel_attn is {norms}; new_decoder_architecture has 1 or 2 norms")
    if not new and c.parallel_attn and norms == 2:
        raise ConfigError("num_ln_in_parallel_attn=2 needs new_decoder_architecture=True; set it, or set 1 norm")
    heads, kv = c.num_attention_heads, c.num_kv_heads
    if new and heads % kv:  # type: ignore[operator]
        raise ConfigError(f"num_attention_heads {heads} is not a multiple of num_kv_heads {kv}")
    if not new and not c.multi_query and kv != heads:
        raise ConfigError(
            f"num_kv_heads is {kv} for {heads} heads; grouped heads need new_decoder_architecture=True or multi_query"
        )


def kv_heads(c: Any) -> int:
    """Heads of keys and values; num_kv_heads counts in the new architecture alone."""
    if c.new_decoder_architecture:
        return c.num_kv_heads
    return 1 if c.multi_query else c.num_attention_heads


def falcon_block(c: Any) -> Block:
    """One layer: branches side by side behind one norm or two, or one after the other."""
    norm, drop = LayerNorm(c.layer_norm_epsilon), c.hidden_dropout or 0.0
    attn = Attention(
        c.num_attention_heads,
        kv_heads(c),
        head_dim(c),
        None if c.alibi else whole_rope(c),
        qkv_bias=bool(c.bias),
        out_bias=bool(c.bias),
        # transformers drops attention weights only where there is ALiBi.
        dropout=(c.attention_dropout or 0.0) if c.alibi else 0.0,
    )
    mlp = Mlp(c.ffn_hidden_size, activation(c.activation), bool(c.bias))
    if not c.parallel_attn:
        # This rate on the first sum is transformers' choice, not the hidden one.
        first = Residual("attn", attn, norm, dropout=c.attention_dropout or 0.0)
        return Block((first, Residual("mlp", mlp, norm, dropout=drop)))
    two = c.new_decoder_architecture and c.num_ln_in_parallel_attn != 1
    own, shared = (norm, None) if two else (None, norm)
    both = Parallel((Path("attn", attn, own), Path("mlp", mlp, own)))
    return Block((Residual("both", both, shared, dropout=drop),))


def falcon(c: Any) -> Decoder:
    """The decoder. ALiBi is added once, as transformers' default attention does; its eager one adds it twice."""
    norm, block = LayerNorm(c.layer_norm_epsilon), falcon_block(c)
    bias = RoundedAlibi(c.num_attention_heads, head_dim(c) ** -0.5) if c.alibi else None
    return decoder(c, lambda i: block, norm, bias=bias)


def falcon_qkv(c: Any, key: str) -> dict[str, Part]:
    """Where q, k and v lie: groups of queries with their k and v, all queries then one k and v, or head by head."""
    heads, kv, dim = c.num_attention_heads, kv_heads(c), head_dim(c)
    if not c.new_decoder_architecture and not c.multi_query:
        return qkv_by_head(key, heads, dim)
    at = {"q": slice(None, -2), "k": -2, "v": -1}
    shape = (kv, heads // kv + 2, dim)
    return {f"layers.{{i}}.attn.{name}_proj": Part(key, shape, (slice(None), n)) for name, n in at.items()}


def falcon_keys(c: Any) -> KeyMap:
    """Names of the layers' parts; branches side by side are one step of ours."""
    layer, at = "h.{i}.", "layers.{i}.both." if c.parallel_attn else "layers.{i}."
    qkv = falcon_qkv(c, layer + "self_attention.query_key_value")
    return KeyMap(
        {
            "embed": "word_embeddings",
            "norm": "ln_f",
            "layers.{i}.both_pre": layer + "input_layernorm",
            "layers.{i}.both.attn_pre": layer + "ln_attn",
            "layers.{i}.both.mlp_pre": layer + "ln_mlp",
            "layers.{i}.attn_pre": layer + "input_layernorm",
            "layers.{i}.mlp_pre": layer + "post_attention_layernorm",
            **{k.replace("layers.{i}.", at): part for k, part in qkv.items()},
            at + "attn.o_proj": layer + "self_attention.dense",
            at + "mlp.fc1": layer + "mlp.dense_h_to_4h",
            at + "mlp.fc2": layer + "mlp.dense_4h_to_h",
        },
        ignore=(r"rotary_emb\.inv_freq$",),
    )


TASKS = gpt_tasks("Falcon", "transformer")
register(Family(FalconConfig, "FalconModel", falcon, falcon_keys, "transformer", TASKS))
