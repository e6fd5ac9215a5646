"""gpt-oss: attention with sinks, every other layer within a window; experts with clamped gates and biases."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks
from jaxformers.models.text.mixtral import check_top_k, moe_lm
from jaxformers.models.text.parts import LLAMA_KEYS, check_layer_types, decoder, embedding_init, layer_window, rope
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.moe import ChosenSoftmaxRouter, ClampedExperts, Moe
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.param import Normal
from jaxformers.nn.residual import Block, prenorm
from jaxformers.nn.sinks import SinkAttention

YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@dataclass(frozen=True, kw_only=True)
class GptOssConfig(Config):
    model_type: ClassVar[str] = "gpt_oss"
    aliases: ClassVar[dict[str, str]] = {"num_experts": "num_local_experts"}
    default_theta: ClassVar[float] = 150000.0

    num_hidden_layers: int = 36
    num_local_experts: int = 128
    vocab_size: int = 201088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    head_dim: int | None = 64
    num_attention_heads: int = 64
    num_key_value_heads: int | None = 8
    sliding_window: int | None = 128
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"  # of no effect: the experts' gate is fixed
    initializer_range: float = 0.02
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    rope_parameters: FrozenDict | None = None
    attention_dropout: float = 0.0
    num_experts_per_tok: int = 4
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    router_aux_loss_coef: float = 0.001
    output_router_logits: bool = False
    use_cache: bool = True
    layer_types: tuple[str, ...] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple | None = None
    attention_bias: bool = True

    @classmethod
    def upgrade(cls, raw: dict[str, Any]) -> dict[str, Any]:
        quantized = raw.get("quantization_config") or {}
        if quantized.get("quant_method") == "mxfp4":
            raise ConfigError(
                "this checkpoint's experts are quantised to MXFP4, which jaxformers cannot read; save it with "
                "transformers in bfloat16 first: from_pretrained(..., quantization_config=Mxfp4Config(dequantize=True))"
            )
        return raw

    def resolve(self) -> None:
        self.default("num_key_value_heads", self.num_attention_heads)
        self.default("head_dim", self.hidden_size // self.num_attention_heads)
        kinds = ("sliding_attention", "full_attention")
        self.default("layer_types", tuple(kinds[i % 2] for i in range(self.num_hidden_layers)))
        self.default("rope_parameters", FrozenDict(YARN))

    def validate(self) -> None:
        check_top_k(self.num_experts_per_tok, self.num_local_experts)
        check_layer_types(self)


def gpt_oss(c: Any) -> Decoder:
    norm, rotation = RMSNorm(c.rms_norm_eps), rope(c)
    moe = Moe(
        ChosenSoftmaxRouter(c.num_local_experts, c.num_experts_per_tok),
        ClampedExperts(c.num_local_experts, c.intermediate_size, c.swiglu_alpha, c.swiglu_limit),
    )

    def block(i: int) -> Block:
        attn = SinkAttention(
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            rotation,
            layer_window(c, i),
            qkv_bias=c.attention_bias,
            out_bias=c.attention_bias,
            dropout=c.attention_dropout,
        )
        return prenorm(attn, moe, norm)

    return decoder(c, block, norm)


EXPERTS = "layers.{i}.mlp.experts."
GPT_OSS_KEYS = LLAMA_KEYS | KeyMap(
    {
        f"{EXPERTS}{name}.{leaf}": Part(f"{EXPERTS}{name}{end}", in_out=leaf == "kernel", exact=True)
        for name in ("gate_up_proj", "down_proj")
        for leaf, end in (("kernel", ""), ("bias", "_bias"))
    }
)


def gpt_oss_init(c: GptOssConfig) -> dict[str, Any]:
    """Sinks and the router's bias are random too."""
    return {**embedding_init(c), r"(\.sinks|router\.bias)$": Normal(c.initializer_range)}


HEADS = ("SequenceClassification", "TokenClassification")
TASKS = decoder_tasks("GptOss", lm=moe_lm, heads=HEADS)
register(Family(GptOssConfig, "GptOssModel", gpt_oss, GPT_OSS_KEYS, "model", TASKS, gpt_oss_init))
