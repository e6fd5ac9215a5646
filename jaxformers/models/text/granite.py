"""Granite: llama with a factor on the embeddings, on the scores, on each residual and on the logits."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.frozen import FrozenDict
from jaxformers.heads.lm import CausalLM
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks, lm_head
from jaxformers.models.text.parts import LLAMA_KEYS, HeadDimConfig, decoder, embedding_init, self_attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.residual import prenorm
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class GraniteConfig(HeadDimConfig):
    model_type: ClassVar[str] = "granite"

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
    tie_word_embeddings: bool = False
    rope_parameters: FrozenDict | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    logits_scaling: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float = 1.0

    def resolve(self) -> None:
        self.default("num_key_value_heads", self.num_attention_heads)


def granite(c: GraniteConfig) -> Decoder:
    norm, bias = RMSNorm(c.rms_norm_eps), c.attention_bias
    attn = self_attention(c, qkv_bias=bias, out_bias=bias, scale=c.attention_multiplier)
    mlp = GatedMlp(c.intermediate_size, activation(c.hidden_act), c.mlp_bias)
    block = prenorm(attn, mlp, norm, scale=c.residual_multiplier)
    return decoder(c, lambda i: block, norm, embed_scale=c.embedding_multiplier)


def granite_lm(c: Any, backbone: nn.Module) -> CausalLM:
    """A language model whose logits are divided by a constant."""
    return CausalLM(backbone, lm_head(c), logit_scale=1.0 / c.logits_scaling)


TASKS = decoder_tasks("Granite", lm=granite_lm, heads=())
register(Family(GraniteConfig, "GraniteModel", granite, LLAMA_KEYS, "model", TASKS, embedding_init))
