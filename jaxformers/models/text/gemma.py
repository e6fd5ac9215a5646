"""Gemma 1, 2 and 3: scaled embeddings, norms that store scale - 1; from 2 on sandwich norms, soft caps and windows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict, thaw
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.lm import CausalLM
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks, lm_head
from jaxformers.models.text.parts import (
    LLAMA_KEYS,
    check_layer_types,
    check_width,
    decoder,
    embedding_init,
    layer_window,
    self_attention,
    whole_rope,
)
from jaxformers.nn.attention import Attention, TwoSidedAttention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.embed import ScaledEmbed
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.residual import Block, Residual, prenorm
from jaxformers.ops.activations import activation

SANDWICH_KEYS = LLAMA_KEYS | KeyMap(
    {
        "layers.{i}.attn_post": "layers.{i}.post_attention_layernorm",
        "layers.{i}.mlp_pre": "layers.{i}.pre_feedforward_layernorm",
        "layers.{i}.mlp_post": "layers.{i}.post_feedforward_layernorm",
    }
)

KINDS = ("full_attention", "sliding_attention")


@dataclass(frozen=True, kw_only=True)
class GemmaConfig(Config):
    model_type: ClassVar[str] = "gemma"

    vocab_size: int = 256000
    hidden_size: int = 3072
    intermediate_size: int = 24576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    head_dim: int = 256
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | tuple | None = 1
    bos_token_id: int | None = 2
    tie_word_embeddings: bool = True
    rope_parameters: FrozenDict | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    use_bidirectional_attention: bool | None = None

    def resolve(self) -> None:
        if self.hidden_act == "gelu":  # the first releases said so and meant the approximation
            self._set("hidden_act", "gelu_pytorch_tanh")


@dataclass(frozen=True, kw_only=True)
class WindowedConfig(Config):
    """What Gemma 2 and 3 share."""

    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | tuple | None = 1
    bos_token_id: int | None = 2
    tie_word_embeddings: bool = True
    rope_parameters: FrozenDict | None = None
    attention_bias: bool = False
    attention_dropout: float | None = 0.0
    query_pre_attn_scalar: int = 256
    sliding_window: int | None = 4096
    layer_types: tuple[str, ...] | None = None

    def full_every(self, period: int) -> tuple[str, ...]:
        """layer_types where each `period`-th layer sees everything."""
        return tuple(KINDS[(i + 1) % period != 0] for i in range(self.num_hidden_layers))

    def validate(self) -> None:
        check_width(self)
        check_layer_types(self)


@dataclass(frozen=True, kw_only=True)
class Gemma2Config(WindowedConfig):
    model_type: ClassVar[str] = "gemma2"

    vocab_size: int = 256000
    max_position_embeddings: int = 8192
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0
    use_bidirectional_attention: bool | None = None

    def resolve(self) -> None:
        self.default("layer_types", self.full_every(2))

    def validate(self) -> None:
        super().validate()
        if self.use_bidirectional_attention:
            raise ConfigError(
                "use_bidirectional_attention is True, which transformers' attention implementations read differently "
                "in gemma2, so that its numbers are not defined; set it to None for the causal model"
            )


@dataclass(frozen=True, kw_only=True)
class Gemma3TextConfig(WindowedConfig):
    """`sliding_window` is what the file says; a bidirectional model sees half of it on either side."""

    model_type: ClassVar[str] = "gemma3_text"
    aliases: ClassVar[Mapping[str, str]] = {"_sliding_window_pattern": "sliding_window_pattern"}

    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    use_bidirectional_attention: bool | None = False
    sliding_window_pattern: int = 6

    def resolve(self) -> None:
        self.default("layer_types", self.full_every(self.sliding_window_pattern))
        self._set("rope_parameters", FrozenDict(two_ropes(self.rope_parameters or {}, {})))

    @property
    def window(self) -> int | None:
        """Keys a query sees, itself included: all before it, or on one side when bidirectional."""
        if self.use_bidirectional_attention and self.sliding_window is not None:
            return self.sliding_window // 2 + 1
        return self.sliding_window

    @classmethod
    def upgrade(cls, raw: dict[str, Any]) -> dict[str, Any]:
        old = {k: raw.pop(k, None) for k in ("rope_scaling", "rope_theta", "rope_local_base_freq")}
        return raw | {"rope_parameters": two_ropes(raw.get("rope_parameters") or {}, old)}

    def downgrade(self, written: dict[str, Any]) -> dict[str, Any]:
        full, local = (self.rope_parameters[k] for k in KINDS)  # type: ignore[index]
        scaling = None if full["rope_type"] == "default" else {k: v for k, v in full.items() if k != "rope_theta"}
        return written | {"rope_local_base_freq": local["rope_theta"], "rope_scaling": thaw(scaling)}


def two_ropes(rope: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """rope_parameters by kind of layer, from them or from transformers 4's spellings, with Gemma 3's defaults."""
    for given in (
        rope,
        old.get("rope_scaling") or {},
        *(rope.get(k) or {} for k in KINDS if isinstance(rope, Mapping)),
    ):
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"rope_parameters holds {given!r}; expected settings by kind of layer: {', '.join(KINDS)}"
            )
    full = {"rope_type": "default", **(rope.get("full_attention") or {})}
    local = {"rope_type": "default", **(rope.get("sliding_attention") or {})}
    scaling = dict(old.get("rope_scaling") or {})
    if "type" in scaling:
        scaling = {"rope_type": scaling.pop("type"), **scaling}
    full |= scaling
    full.setdefault("rope_theta", old.get("rope_theta") or 1_000_000.0)
    local.setdefault("rope_theta", old.get("rope_local_base_freq") or 10_000.0)
    return {**rope, "full_attention": full, "sliding_attention": local}


def gemma(c: GemmaConfig) -> Decoder:
    norm = RMSNorm(c.rms_norm_eps, offset=1.0)
    attn = self_attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias)
    block = prenorm(attn, GatedMlp(c.intermediate_size, activation(c.hidden_act)), norm)
    return decoder(c, lambda i: block, norm, scaled(c), causal=not c.use_bidirectional_attention)


def scaled(c: Any) -> ScaledEmbed:
    """The word table, scaled by the root of its width."""
    return ScaledEmbed(c.vocab_size, c.hidden_size, scale=c.hidden_size**0.5)


def windowed_attention(c: Any, **changes: Any) -> Attention:
    """Attention of Gemma 2 and 3, scaled by a field of the config instead of the head's width."""
    bias = c.attention_bias
    return self_attention(c, qkv_bias=bias, out_bias=bias, scale=c.query_pre_attn_scalar**-0.5, **changes)


def sandwich(c: Any, attn: Attention) -> Block:
    """A block with a norm before and after each branch."""
    norm = RMSNorm(c.rms_norm_eps, offset=1.0)
    mlp = GatedMlp(c.intermediate_size, activation(c.hidden_activation))
    return Block((Residual("attn", attn, pre=norm, post=norm), Residual("mlp", mlp, pre=norm, post=norm)))


def gemma2(c: Gemma2Config) -> Decoder:
    def block(i: int) -> Block:
        return sandwich(c, windowed_attention(c, window=layer_window(c, i), softcap=c.attn_logit_softcapping))

    return decoder(c, block, RMSNorm(c.rms_norm_eps, offset=1.0), scaled(c))


def gemma3(c: Gemma3TextConfig) -> Decoder:
    norm = RMSNorm(c.rms_norm_eps, offset=1.0)

    def block(i: int) -> Block:
        kind = c.layer_types[i]  # type: ignore[index]
        window = c.window if kind == "sliding_attention" else None
        sees = TwoSidedAttention if c.use_bidirectional_attention else Attention
        rope = whole_rope(c, c.rope_parameters[kind])  # type: ignore[index]
        # attn_logit_softcapping is a field of Gemma 3's config that no model reads
        return sandwich(c, windowed_attention(c, kind=sees, qk_norm=norm, window=window, rope=rope))

    return decoder(c, block, norm, scaled(c), causal=not c.use_bidirectional_attention)


def capped_lm(c: Any, backbone: nn.Module) -> CausalLM:
    """A language model whose logits are capped smoothly."""
    return CausalLM(backbone, lm_head(c), softcap=c.final_logit_softcapping)


HEADS = ("SequenceClassification", "TokenClassification")
register(
    Family(GemmaConfig, "GemmaModel", gemma, LLAMA_KEYS, "model", decoder_tasks("Gemma", heads=HEADS), embedding_init)
)
TASKS2 = decoder_tasks("Gemma2", lm=capped_lm, heads=HEADS)
register(Family(Gemma2Config, "Gemma2Model", gemma2, SANDWICH_KEYS, "model", TASKS2, embedding_init))
TASKS3 = decoder_tasks("Gemma3", lm=capped_lm, heads=HEADS[:1], classifier="Gemma3Text")
register(Family(Gemma3TextConfig, "Gemma3TextModel", gemma3, SANDWICH_KEYS, "model", TASKS3, embedding_init))
