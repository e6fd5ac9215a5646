"""BLOOM: ALiBi instead of positions, a norm on the embeddings, q, k, v in one matrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.keymap import KeyMap
from jaxformers.models import Family, register
from jaxformers.models.text.gpt_parts import gpt_tasks, old_width, qkv_by_head
from jaxformers.models.text.parts import check_width, decoder, head_dim
from jaxformers.nn.alibi import Alibi
from jaxformers.nn.attention import Attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.dormant import DormantBias, HalfBiasedMlp
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.normed_stream import NormedStreamBlock
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stem import Stem
from jaxformers.ops.activations import gelu_tanh


@dataclass(frozen=True, kw_only=True)
class BloomConfig(Config):
    model_type: ClassVar[str] = "bloom"
    aliases: ClassVar[Mapping[str, str]] = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}

    vocab_size: int = 250880
    hidden_size: int = 64
    n_layer: int = 2
    n_head: int = 8
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | tuple | None = 2
    pad_token_id: int | None = None
    apply_residual_connection_post_layernorm: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    pretraining_tp: int = 1
    slow_but_exact: bool = False
    tie_word_embeddings: bool = True

    @classmethod
    def upgrade(cls, raw: dict[str, Any]) -> dict[str, Any]:
        return old_width(raw)

    def validate(self) -> None:
        check_width(self)


def bloom_block(c: Any) -> Block:
    """One layer. transformers' sum over slices (slow_but_exact) leaves the biases of both outputs out."""
    sliced = c.slow_but_exact and c.pretraining_tp > 1
    norm, post = LayerNorm(c.layer_norm_epsilon), DormantBias() if sliced else None
    heads, drop = c.n_head, c.attention_dropout
    attn = Attention(heads, heads, head_dim(c), qkv_bias=True, out_bias=not sliced, dropout=drop)
    mlp = (HalfBiasedMlp if sliced else Mlp)(4 * c.hidden_size, gelu_tanh)
    steps = tuple(Residual(n, b, norm, post, dropout=c.hidden_dropout) for n, b in (("attn", attn), ("mlp", mlp)))
    return (NormedStreamBlock if c.apply_residual_connection_post_layernorm else Block)(steps)


def bloom(c: Any) -> Decoder:
    norm, block = LayerNorm(c.layer_norm_epsilon), bloom_block(c)
    return decoder(c, lambda i: block, norm, stem=Stem(norm=norm.copy()), bias=Alibi(c.n_head))


def bloom_keys(c: Any) -> KeyMap:
    """q, k and v lie together, head by head."""
    layer = "h.{i}."
    return KeyMap(
        {
            "embed": "word_embeddings",
            "stem.norm": "word_embeddings_layernorm",
            "norm": "ln_f",
            "layers.{i}.attn_pre": layer + "input_layernorm",
            "layers.{i}.mlp_pre": layer + "post_attention_layernorm",
            **qkv_by_head(layer + "self_attention.query_key_value", c.n_head, head_dim(c)),
            "layers.{i}.attn.o_proj": layer + "self_attention.dense",
            "layers.{i}.attn_post": layer + "self_attention.dense",
            "layers.{i}.mlp.fc1": layer + "mlp.dense_h_to_4h",
            "layers.{i}.mlp.fc2": layer + "mlp.dense_4h_to_h",
            "layers.{i}.mlp_post": layer + "mlp.dense_4h_to_h",
        }
    )


HEADS = gpt_tasks("Bloom", "transformer")
TASKS = {**HEADS, "PreTraining": HEADS["CausalLM"]}
register(Family(BloomConfig, "BloomModel", bloom, bloom_keys, "transformer", TASKS))
