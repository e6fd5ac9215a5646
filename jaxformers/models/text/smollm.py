"""SmolLM3: llama where every few layers go without rotary positions, and those may have a window."""

from dataclasses import dataclass
from typing import ClassVar

from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks
from jaxformers.models.text.parts import (
    LLAMA_KEYS,
    HeadDimConfig,
    check_layer_types,
    decoder,
    embedding_init,
    layer_window,
    self_attention,
    whole_rope,
)
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.residual import Block, prenorm
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class SmolLM3Config(HeadDimConfig):
    """no_rope_layers holds 1 for a layer with rotary positions and 0 for one without, its name notwithstanding."""

    model_type: ClassVar[str] = "smollm3"
    default_theta: ClassVar[float] = 2000000.0

    vocab_size: int = 128256
    hidden_size: int = 2048
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 4
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = 128004
    bos_token_id: int | None = 128000
    eos_token_id: int | tuple | None = 128001
    rope_parameters: FrozenDict | None = None
    use_sliding_window: bool = False
    sliding_window: int | None = None
    no_rope_layers: tuple[int, ...] | None = None
    no_rope_layer_interval: int = 4
    layer_types: tuple[str, ...] | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    tie_word_embeddings: bool = True

    def resolve(self) -> None:
        self.default("num_key_value_heads", self.num_attention_heads)
        turns = tuple(int((i + 1) % self.no_rope_layer_interval != 0) for i in range(self.num_hidden_layers))
        self.default("no_rope_layers", turns)
        slides = self.use_sliding_window and self.sliding_window is not None
        kinds = ("full_attention", "sliding_attention")
        layers = (self.no_rope_layers or ())[: self.num_hidden_layers]
        self.default("layer_types", tuple(kinds[slides and not turns] for turns in layers))

    def validate(self) -> None:
        if len(self.no_rope_layers or ()) < self.num_hidden_layers:
            raise ConfigError(
                f"no_rope_layers has {len(self.no_rope_layers or ())} entries for num_hidden_layers "
                f"{self.num_hidden_layers}; give one for each layer"
            )
        check_layer_types(self)


def smollm3(c: SmolLM3Config) -> Decoder:
    norm, bias = RMSNorm(c.rms_norm_eps), c.attention_bias
    mlp = GatedMlp(c.intermediate_size, activation(c.hidden_act), c.mlp_bias)
    spec = whole_rope(c)

    def block(i: int) -> Block:
        rope = spec if c.no_rope_layers[i] else None  # type: ignore[index]
        attn = self_attention(c, qkv_bias=bias, out_bias=bias, window=layer_window(c, i), rope=rope)
        return prenorm(attn, mlp, norm)

    return decoder(c, block, norm)


register(Family(SmolLM3Config, "SmolLM3Model", smollm3, LLAMA_KEYS, "model", decoder_tasks("SmolLM3"), embedding_init))
