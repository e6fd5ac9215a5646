"""OLMo 2: norms after each branch instead of before, and normed q and k over all heads at once."""

from dataclasses import dataclass
from typing import ClassVar

from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks
from jaxformers.models.text.parts import LLAMA_KEYS, HeadDimConfig, decoder, embedding_init, self_attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.norm import FlatNorm, RMSNorm
from jaxformers.nn.residual import Block, Residual
from jaxformers.ops.activations import activation

OLMO2_KEYS = LLAMA_KEYS | KeyMap(
    {
        "layers.{i}.attn.q_norm.flat": "layers.{i}.self_attn.q_norm",
        "layers.{i}.attn.k_norm.flat": "layers.{i}.self_attn.k_norm",
        "layers.{i}.attn_post": "layers.{i}.post_attention_layernorm",
        "layers.{i}.mlp_post": "layers.{i}.post_feedforward_layernorm",
    }
)


@dataclass(frozen=True, kw_only=True)
class Olmo2Config(HeadDimConfig):
    model_type: ClassVar[str] = "olmo2"

    vocab_size: int = 50304
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = None
    eos_token_id: int | tuple | None = 50279
    tie_word_embeddings: bool = False
    rope_parameters: FrozenDict | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    rms_norm_eps: float = 1e-5

    def resolve(self) -> None:
        self.default("num_key_value_heads", self.num_attention_heads)


def olmo2(c: Olmo2Config) -> Decoder:
    norm, bias = RMSNorm(c.rms_norm_eps), c.attention_bias
    attn = self_attention(c, qkv_bias=bias, out_bias=bias, qk_norm=FlatNorm(c.rms_norm_eps))
    mlp = GatedMlp(c.intermediate_size, activation(c.hidden_act))
    block = Block((Residual("attn", attn, post=norm), Residual("mlp", mlp, post=norm)))
    return decoder(c, lambda i: block, norm)


TASKS = decoder_tasks("Olmo2", heads=("SequenceClassification",))
register(Family(Olmo2Config, "Olmo2Model", olmo2, OLMO2_KEYS, "model", TASKS, embedding_init))
