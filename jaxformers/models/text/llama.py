"""Llama and Mistral: RMSNorm before each branch, grouped heads, rotary positions, a gated feed-forward."""

from dataclasses import dataclass
from typing import ClassVar

from jaxformers.core.config import Config
from jaxformers.core.frozen import FrozenDict
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks
from jaxformers.models.text.parts import LLAMA_KEYS, check_width, decoder, embedding_init, self_attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.residual import prenorm
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(Config):
    model_type: ClassVar[str] = "llama"

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | tuple | None = 2
    pretraining_tp: int | None = 1
    tie_word_embeddings: bool = False
    rope_parameters: FrozenDict | None = None
    attention_bias: bool = False
    attention_dropout: float | None = 0.0
    mlp_bias: bool = False
    head_dim: int | None = None

    def resolve(self) -> None:
        self.default("head_dim", self.hidden_size // self.num_attention_heads)
        self.default("num_key_value_heads", self.num_attention_heads)

    def validate(self) -> None:
        check_width(self)


def llama(c: LlamaConfig) -> Decoder:
    norm = RMSNorm(c.rms_norm_eps)
    attn = self_attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias)
    block = prenorm(attn, GatedMlp(c.intermediate_size, activation(c.hidden_act), c.mlp_bias), norm)
    return decoder(c, lambda i: block, norm)


register(Family(LlamaConfig, "LlamaModel", llama, LLAMA_KEYS, "model", decoder_tasks("Llama"), embedding_init))


@dataclass(frozen=True, kw_only=True)
class MistralConfig(Config):
    model_type: ClassVar[str] = "mistral"

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096 * 32
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | tuple | None = 2
    tie_word_embeddings: bool = False
    rope_parameters: FrozenDict | None = None
    sliding_window: int | None = 4096
    attention_dropout: float | None = 0.0

    def resolve(self) -> None:
        self.default("head_dim", self.hidden_size // self.num_attention_heads)
        self.default("num_key_value_heads", self.num_attention_heads)


def mistral(c: MistralConfig) -> Decoder:
    norm = RMSNorm(c.rms_norm_eps)
    attn = self_attention(c, window=c.sliding_window)
    block = prenorm(attn, GatedMlp(c.intermediate_size, activation(c.hidden_act)), norm)
    return decoder(c, lambda i: block, norm)


TASKS = decoder_tasks("Mistral", qa_prefix=None)
register(Family(MistralConfig, "MistralModel", mistral, LLAMA_KEYS, "model", TASKS, embedding_init))
