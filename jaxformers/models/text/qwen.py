"""Qwen 2 and 3: llama with biases on q, k and v (2) or normed q and k (3), and windows in the upper layers."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.frozen import FrozenDict
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks
from jaxformers.models.text.decision import BORROWED
from jaxformers.models.text.parts import (
    LLAMA_KEYS,
    HeadDimConfig,
    check_layer_types,
    decoder,
    embedding_init,
    layer_window,
    self_attention,
)
from jaxformers.nn.attention import Attention, TwoSidedAttention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.residual import Block, prenorm
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class QwenConfig(Config):
    """What both generations share. `is_causal` False: every token sees those after it too."""

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 22016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 32
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = False
    rope_parameters: FrozenDict | None = None
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: tuple[str, ...] | None = None
    attention_dropout: float = 0.0
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple | None = None
    is_causal: bool = True

    def resolve(self) -> None:
        if not self.use_sliding_window:
            self._set("sliding_window", None)
        self.default("num_key_value_heads", self.num_attention_heads)
        first = self.num_hidden_layers if self.sliding_window is None else self.max_window_layers
        kinds = ("full_attention", "sliding_attention")
        self.default("layer_types", tuple(kinds[i >= first] for i in range(self.num_hidden_layers)))

    def validate(self) -> None:
        check_layer_types(self)

    def downgrade(self, written: dict[str, Any]) -> dict[str, Any]:
        if self.is_causal:
            del written["is_causal"]  # transformers has no such field, and reads one only to be told False
        return super().downgrade(written)


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(QwenConfig, HeadDimConfig):
    model_type: ClassVar[str] = "qwen2"


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(QwenConfig):
    model_type: ClassVar[str] = "qwen3"

    head_dim: int = 128
    attention_bias: bool = False


def layer_attention(c: QwenConfig, layer: int, **changes: Any) -> Attention:
    """Attention of one layer: back over its window, or to both sides."""
    window = layer_window(c, layer)
    if c.is_causal:
        return self_attention(c, window=window, **changes)
    # A causal window counts the query itself; to both sides it is the distance.
    return self_attention(c, TwoSidedAttention, window=None if window is None else window + 1, **changes)


def qwen2(c: Qwen2Config) -> Decoder:
    norm = RMSNorm(c.rms_norm_eps)
    mlp = GatedMlp(c.intermediate_size, activation(c.hidden_act))

    def block(i: int) -> Block:
        return prenorm(layer_attention(c, i, qkv_bias=True), mlp, norm)

    return decoder(c, block, norm, causal=c.is_causal)


def qwen3(c: Qwen3Config) -> Decoder:
    norm = RMSNorm(c.rms_norm_eps)
    mlp = GatedMlp(c.intermediate_size, activation(c.hidden_act))
    bias = c.attention_bias

    def block(i: int) -> Block:
        attn = layer_attention(c, i, qkv_bias=bias, out_bias=bias, qk_norm=norm)
        return prenorm(attn, mlp, norm)

    return decoder(c, block, norm, causal=c.is_causal)


TASKS2 = {**decoder_tasks("Qwen2"), **BORROWED}
register(Family(Qwen2Config, "Qwen2Model", qwen2, LLAMA_KEYS, "model", TASKS2, embedding_init))
register(Family(Qwen3Config, "Qwen3Model", qwen3, LLAMA_KEYS, "model", decoder_tasks("Qwen3"), embedding_init))
