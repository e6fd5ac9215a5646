"""DeepSeek-V3: latent attention, and many small experts chosen by groups, beside shared ones that serve every token."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks
from jaxformers.models.text.mixtral import check_top_k
from jaxformers.models.text.parts import LLAMA_KEYS, decoder, embedding_init, rope, yarn_scale
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mla import LatentAttention
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.moe import GatedExperts, GroupedSigmoidRouter, Moe
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.residual import Block, prenorm
from jaxformers.ops.activations import activation
from jaxformers.ops.rope import rotate_halves, rotate_pairs


@dataclass(frozen=True, kw_only=True)
class DeepseekV3Config(Config):
    model_type: ClassVar[str] = "deepseek_v3"
    aliases: ClassVar[dict[str, str]] = {
        "num_local_experts": "n_routed_experts",
        "num_mtp_layers": "num_nextn_predict_layers",
    }

    vocab_size: int = 129280
    hidden_size: int = 7168
    intermediate_size: int = 18432
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 61
    num_attention_heads: int = 128
    num_key_value_heads: int | None = 128
    n_shared_experts: int = 1
    n_routed_experts: int = 256
    output_router_logits: bool = False
    routed_scaling_factor: float = 2.5
    kv_lora_rank: int = 512
    q_lora_rank: int | None = 1536
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    qk_nope_head_dim: int = 128
    n_group: int = 8
    topk_group: int = 4
    num_experts_per_tok: int = 8
    first_k_dense_replace: int = 3
    norm_topk_prob: bool | None = True
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 0
    eos_token_id: int | tuple | None = 1
    pretraining_tp: int | None = 1
    tie_word_embeddings: bool = False
    rope_parameters: FrozenDict | None = None
    rope_interleave: bool | None = True
    attention_bias: bool = False
    attention_dropout: float | None = 0.0
    num_nextn_predict_layers: int = 1  # layers after the last that only speculative decoding runs
    qk_head_dim: int | None = None
    head_dim: int | None = None

    def resolve(self) -> None:
        self.default("num_key_value_heads", self.num_attention_heads)
        self._set("qk_head_dim", self.qk_nope_head_dim + self.qk_rope_head_dim)
        self._set("head_dim", self.qk_rope_head_dim)  # what is rotated

    def validate(self) -> None:
        if self.num_key_value_heads != self.num_attention_heads:
            raise ConfigError(
                f"num_key_value_heads is {self.num_key_value_heads}; latent attention has as many as "
                f"num_attention_heads, {self.num_attention_heads}"
            )
        if self.n_routed_experts % self.n_group or self.n_routed_experts < 2 * self.n_group:
            raise ConfigError(
                f"{self.n_routed_experts} experts do not divide into n_group = {self.n_group} groups of two or more"
            )
        if not 0 < self.topk_group <= self.n_group:
            raise ConfigError(f"topk_group is {self.topk_group}; expected 1 to {self.n_group}, the number of groups")
        check_top_k(self.num_experts_per_tok, self.n_routed_experts // self.n_group * self.topk_group)


def softmax_scale(c: Any) -> float:
    """1 / sqrt(width of a key), times YaRN's temperature squared where the positions are stretched."""
    scale = c.qk_head_dim**-0.5
    weight = c.rope_parameters.get("mscale_all_dim")
    if c.rope_parameters["rope_type"] == "default" or not weight:
        return scale
    return scale * yarn_scale(c.rope_parameters["factor"], weight) ** 2


def deepseek_v3(c: DeepseekV3Config) -> Decoder:
    norm, act = RMSNorm(c.rms_norm_eps), activation(c.hidden_act)
    attn = LatentAttention(
        c.num_attention_heads,
        c.qk_nope_head_dim,
        c.qk_rope_head_dim,
        c.v_head_dim,
        c.kv_lora_rank,
        rope(c, rotate=rotate_pairs if c.rope_interleave else rotate_halves),
        RMSNorm(1e-6),  # transformers leaves these two norms at their default
        c.q_lora_rank,
        c.attention_bias,
        softmax_scale(c),
        c.attention_dropout or 0.0,
    )
    router = GroupedSigmoidRouter(
        c.n_routed_experts,
        c.num_experts_per_tok,
        c.n_group,
        c.topk_group,
        bool(c.norm_topk_prob),
        c.routed_scaling_factor,
    )
    shared = GatedMlp(c.moe_intermediate_size * c.n_shared_experts, act)
    moe = Moe(router, GatedExperts(c.n_routed_experts, c.moe_intermediate_size, act), shared)

    def block(i: int) -> Block:
        return prenorm(attn, GatedMlp(c.intermediate_size, act) if i < c.first_k_dense_replace else moe, norm)

    return decoder(c, block, norm)


def deepseek_keys(c: DeepseekV3Config) -> KeyMap:
    """The llama line's names, latents, routers and experts; layers for speculative decoding are left out."""
    layer = "layers.{i}."
    extra = range(c.num_hidden_layers, c.num_hidden_layers + max(c.num_nextn_predict_layers, 1))
    return LLAMA_KEYS | KeyMap(
        {
            f"{layer}attn.q_a_norm": f"{layer}self_attn.q_a_layernorm",
            f"{layer}attn.kv_a_norm": f"{layer}self_attn.kv_a_layernorm",
            f"{layer}attn.kv_a_proj": f"{layer}self_attn.kv_a_proj_with_mqa",
            f"{layer}mlp.router.correction": Part(f"{layer}mlp.gate.e_score_correction_bias", exact=True),
            f"{layer}mlp.router": f"{layer}mlp.gate",
            f"{layer}mlp.shared.{{*}}": f"{layer}mlp.shared_experts.{{*}}",
            **{
                f"{layer}mlp.experts.{name}": f"{layer}mlp.experts.{{e}}.{name}"
                for name in ("gate_proj", "up_proj", "down_proj")
            },
        },
        ignore=tuple(rf"^layers\.{i}\." for i in extra),
    )


def tasks() -> dict[str, Any]:
    """The usual heads; the model balances its experts by the router's bias, not by a loss."""
    return dict(decoder_tasks("DeepseekV3", heads=("SequenceClassification", "TokenClassification")))


register(Family(DeepseekV3Config, "DeepseekV3Model", deepseek_v3, deepseek_keys, "model", tasks(), embedding_init))
