"""Mixtral: Mistral with eight feed-forward networks in each layer, two of which serve each token."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.moe import MoeCausalLM
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks, lm_head
from jaxformers.models.text.parts import LLAMA_KEYS, decoder, embedding_init, self_attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.moe import GatedExperts, Moe, SoftmaxRouter
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.residual import prenorm
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class MixtralConfig(Config):
    model_type: ClassVar[str] = "mixtral"
    aliases: ClassVar[dict[str, str]] = {"num_experts": "num_local_experts"}
    default_theta: ClassVar[float] = 1000000.0

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
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | tuple | None = 2
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    attention_dropout: float = 0.0
    num_experts_per_tok: int = 2
    num_local_experts: int = 8
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001
    router_jitter_noise: float = 0.0
    rope_parameters: FrozenDict | None = None

    def resolve(self) -> None:
        self.default("num_key_value_heads", self.num_attention_heads)

    def validate(self) -> None:
        check_top_k(self.num_experts_per_tok, self.num_local_experts)


def check_top_k(top_k: int, experts: int) -> None:
    """Raise ConfigError when a token should choose more experts than there are."""
    if not 0 < top_k <= experts:
        raise ConfigError(f"num_experts_per_tok is {top_k}; expected 1 to {experts}, the number of experts")


def moe_lm(c: Any, backbone: nn.Module) -> MoeCausalLM:
    """The language model of a sparse decoder."""
    return MoeCausalLM(backbone, lm_head(c), top_k=c.num_experts_per_tok)


def mixtral(c: MixtralConfig) -> Decoder:
    norm = RMSNorm(c.rms_norm_eps)
    moe = Moe(
        SoftmaxRouter(c.num_local_experts, c.num_experts_per_tok, normalize=True),
        GatedExperts(c.num_local_experts, c.intermediate_size, activation(c.hidden_act)),
        jitter=c.router_jitter_noise,
    )
    block = prenorm(self_attention(c, window=c.sliding_window), moe, norm)
    return decoder(c, lambda i: block, norm)


MIXTRAL_KEYS = LLAMA_KEYS | KeyMap(
    {
        "layers.{i}.mlp.router": "layers.{i}.block_sparse_moe.gate",
        "layers.{i}.mlp.experts.gate_proj": "layers.{i}.block_sparse_moe.experts.{e}.w1",
        "layers.{i}.mlp.experts.up_proj": "layers.{i}.block_sparse_moe.experts.{e}.w3",
        "layers.{i}.mlp.experts.down_proj": "layers.{i}.block_sparse_moe.experts.{e}.w2",
    }
)

TASKS = decoder_tasks("Mixtral", lm=moe_lm, qa_prefix=None)
register(Family(MixtralConfig, "MixtralModel", mixtral, MIXTRAL_KEYS, "model", TASKS, embedding_init))
