"""Jamba: Mamba mixers with attention in every eighth layer, and experts in every other; no positions at all."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks
from jaxformers.models.text.mamba import resolve_rank
from jaxformers.models.text.mixtral import check_top_k, moe_lm
from jaxformers.models.text.parts import decoder, embedding_init, self_attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mamba import CountLog, MambaMixer
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.moe import GatedExperts, Moe, SoftmaxRouter
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.param import ONES
from jaxformers.nn.residual import Block, Residual
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class JambaConfig(Config):
    model_type: ClassVar[str] = "jamba"
    aliases: ClassVar[dict[str, str]] = {"num_local_experts": "num_experts"}

    vocab_size: int = 65536
    tie_word_embeddings: bool = False
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    hidden_act: str = "silu"
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | tuple | None = 2
    max_position_embeddings: int = 262144
    attention_dropout: float = 0.0
    num_experts_per_tok: int = 2
    num_experts: int = 16
    expert_layer_period: int = 2
    expert_layer_offset: int = 1
    attn_layer_period: int = 8
    attn_layer_offset: int = 4
    use_mamba_kernels: bool = True
    mamba_d_state: int = 16
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_dt_rank: int | str = "auto"
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    use_mambapy: bool = False
    use_associative_scan: bool = True

    def resolve(self) -> None:
        self.default("num_key_value_heads", self.num_attention_heads)
        resolve_rank(self, "mamba_dt_rank")

    def validate(self) -> None:
        for kind in ("attn", "expert"):
            period, offset = getattr(self, f"{kind}_layer_period"), getattr(self, f"{kind}_layer_offset")
            if offset >= period:
                raise ConfigError(f"{kind}_layer_offset is {offset}; expected less than {kind}_layer_period, {period}")
        if self.num_experts > 1:
            check_top_k(self.num_experts_per_tok, self.num_experts)


def jamba(c: Any) -> Decoder:
    norm, act = RMSNorm(c.rms_norm_eps), activation(c.hidden_act)
    attn = Residual("attn", self_attention(c, rope=None), pre=norm)
    mixer = MambaMixer(
        c.mamba_expand * c.hidden_size,
        c.mamba_d_state,
        c.mamba_dt_rank,
        c.mamba_d_conv,
        act,
        c.mamba_proj_bias,
        c.mamba_conv_bias,
        norm,
    )
    mamba = Residual("mamba", mixer, pre=norm)
    dense = Residual("mlp", GatedMlp(c.intermediate_size, act), pre=norm)
    router = SoftmaxRouter(c.num_experts, c.num_experts_per_tok)
    sparse = Residual("mlp", Moe(router, GatedExperts(c.num_experts, c.intermediate_size, act)), pre=norm)

    def block(i: int) -> Block:
        has_attention = i % c.attn_layer_period == c.attn_layer_offset
        has_experts = c.num_experts > 1 and i % c.expert_layer_period == c.expert_layer_offset
        return Block((attn if has_attention else mamba, sparse if has_experts else dense))

    return decoder(c, block, norm)


JAMBA_KEYS = KeyMap(
    {
        "embed": "embed_tokens",
        "norm": "final_layernorm",
        "layers.{i}.attn_pre": "layers.{i}.input_layernorm",
        "layers.{i}.mamba_pre": "layers.{i}.input_layernorm",
        "layers.{i}.mlp_pre": "layers.{i}.pre_ff_layernorm",
        "layers.{i}.attn.{*}": "layers.{i}.self_attn.{*}",
        **{f"layers.{{i}}.mamba.{n}_norm": f"layers.{{i}}.mamba.{n}_layernorm" for n in ("dt", "b", "c")},
        "layers.{i}.mamba.{*}": "layers.{i}.mamba.{*}",
        **{
            f"layers.{{i}}.mlp.experts.{name}": f"layers.{{i}}.feed_forward.experts.{{e}}.{name}"
            for name in ("gate_proj", "up_proj", "down_proj")
        },
        "layers.{i}.mlp.{*}": "layers.{i}.feed_forward.{*}",
    }
)


def jamba_init(c: JambaConfig) -> dict[str, Any]:
    """Mamba's decays; everything else is normal, the step's length included."""
    return {**embedding_init(c), r"\.A_log$": CountLog(), r"\.D$": ONES}


TASKS = decoder_tasks("Jamba", lm=moe_lm, heads=("SequenceClassification",))
register(Family(JambaConfig, "JambaModel", jamba, JAMBA_KEYS, "model", TASKS, jamba_init))
