"""Qwen 3 MoE: Qwen 3's attention with normed queries and keys; layers with experts, and dense ones among them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks
from jaxformers.models.text.mixtral import check_top_k, moe_lm
from jaxformers.models.text.parts import LLAMA_KEYS, decoder, embedding_init, self_attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.moe import GatedExperts, Moe, SoftmaxRouter
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.residual import Block, prenorm
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class Qwen3MoeConfig(Config):
    model_type: ClassVar[str] = "qwen3_moe"
    aliases: ClassVar[dict[str, str]] = {"num_experts": "num_local_experts"}

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 6144
    num_hidden_layers: int = 24
    num_attention_heads: int = 32
    num_key_value_heads: int = 4
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = False
    rope_parameters: FrozenDict | None = None
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    attention_dropout: float = 0.0
    decoder_sparse_step: int = 1
    moe_intermediate_size: int = 768
    num_experts_per_tok: int = 8
    num_local_experts: int = 128
    norm_topk_prob: bool = False
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001
    mlp_only_layers: tuple[int, ...] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple | None = None

    def resolve(self) -> None:
        if not self.use_sliding_window:
            self._set("sliding_window", None)
        self.default("mlp_only_layers", ())

    def validate(self) -> None:
        if self.num_local_experts > 0:
            check_top_k(self.num_experts_per_tok, self.num_local_experts)

    def downgrade(self, written: dict[str, Any]) -> dict[str, Any]:
        written = written | {"num_experts": self.num_local_experts}  # transformers 4's spelling
        if self.head_dim is None:
            written.pop("head_dim", None)
        return written

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        here = (layer + 1) % self.decoder_sparse_step == 0
        return self.num_local_experts > 0 and here and layer not in (self.mlp_only_layers or ())


def qwen3_moe(c: Qwen3MoeConfig) -> Decoder:
    norm, act = RMSNorm(c.rms_norm_eps), activation(c.hidden_act)
    bias = c.attention_bias
    attn = self_attention(c, qkv_bias=bias, out_bias=bias, qk_norm=norm, window=c.sliding_window)

    def block(i: int) -> Block:
        if not c.is_sparse(i):
            return prenorm(attn, GatedMlp(c.intermediate_size, act), norm)
        router = SoftmaxRouter(c.num_local_experts, c.num_experts_per_tok, c.norm_topk_prob)
        return prenorm(attn, Moe(router, GatedExperts(c.num_local_experts, c.moe_intermediate_size, act)), norm)

    return decoder(c, block, norm)


# The rest of a sparse layer has the dense layer's names: mlp.experts.{e}.gate_proj beside mlp.gate_proj.
QWEN3_MOE_KEYS = LLAMA_KEYS | KeyMap(
    {
        "layers.{i}.mlp.router": "layers.{i}.mlp.gate",
        **{
            f"layers.{{i}}.mlp.experts.{name}": f"layers.{{i}}.mlp.experts.{{e}}.{name}"
            for name in ("gate_proj", "up_proj", "down_proj")
        },
    }
)

TASKS = decoder_tasks("Qwen3Moe", lm=moe_lm)
register(Family(Qwen3MoeConfig, "Qwen3MoeModel", qwen3_moe, QWEN3_MOE_KEYS, "model", TASKS, embedding_init))
