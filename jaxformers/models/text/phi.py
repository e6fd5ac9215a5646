"""Phi-3: llama with q, k, v in one matrix and gate, up in another, dropout on residuals, and LongRoPE."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.models import Family, register
from jaxformers.models.tasks import decoder_tasks
from jaxformers.models.text.parts import (
    LLAMA_KEYS,
    HeadDimConfig,
    decoder,
    embedding_init,
    head_dim,
    rope,
    self_attention,
)
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.residual import prenorm
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class Phi3Config(HeadDimConfig):
    model_type: ClassVar[str] = "phi3"

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0  # no model reads it
    attention_dropout: float = 0.0
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    tie_word_embeddings: bool = False
    rope_parameters: FrozenDict | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | tuple | None = 32000
    pad_token_id: int | None = 32000
    sliding_window: int | None = None

    def resolve(self) -> None:
        self.default("num_key_value_heads", self.num_attention_heads)
        given = dict(self.rope_parameters or {})
        old = given.pop("type", "default")
        kind = given.get("rope_type", old)
        # Early releases called LongRoPE by these names.
        kind = "longrope" if kind in ("su", "yarn") else kind
        self._set("rope_parameters", FrozenDict({"partial_rotary_factor": 1.0, **given, "rope_type": kind}))

    def validate(self) -> None:
        kind = self.rope_parameters["rope_type"]  # type: ignore[index]
        if kind not in ("default", "longrope"):
            raise ConfigError(f"rope_type is {kind!r}; phi3 knows 'default' and 'longrope'")

    def downgrade(self, written: dict[str, Any]) -> dict[str, Any]:
        written, factors = super().downgrade(written), ("short_factor", "long_factor")
        scaling = written.get("rope_scaling") or {}
        if set(scaling) - {"original_max_position_embeddings"} == {"rope_type", *factors}:
            # transformers 4 wants these three keys and no other
            written["rope_scaling"] = {"type": "longrope", **{k: scaling[k] for k in factors}}
        return written


def phi3(c: Phi3Config) -> Decoder:
    norm = RMSNorm(c.rms_norm_eps)
    attn = self_attention(c, rope=rope(c), window=c.sliding_window)
    block = prenorm(attn, GatedMlp(c.intermediate_size, activation(c.hidden_act)), norm, dropout=c.resid_pdrop)
    return decoder(c, lambda i: block, norm)


def phi3_keys(c: Any) -> KeyMap:
    """Our q, k and v are rows of their one matrix, as are gate and up."""
    q, kv = c.num_attention_heads * head_dim(c), c.num_key_value_heads * head_dim(c)
    qkv, gate_up = "layers.{i}.self_attn.qkv_proj", "layers.{i}.mlp.gate_up_proj"
    rows = {"q": slice(0, q), "k": slice(q, q + kv), "v": slice(q + kv, None)}
    attn = {f"layers.{{i}}.attn.{n}_proj": Part(qkv, (q + 2 * kv,), at) for n, at in rows.items()}
    mlp = {
        f"layers.{{i}}.mlp.{n}_proj": Part(gate_up, (2, c.intermediate_size), at) for n, at in (("gate", 0), ("up", 1))
    }
    return KeyMap({**attn, **mlp, **LLAMA_KEYS.rules}, LLAMA_KEYS.ignore)


HEADS = ("SequenceClassification", "TokenClassification")
register(Family(Phi3Config, "Phi3Model", phi3, phi3_keys, "model", decoder_tasks("Phi3", heads=HEADS), embedding_init))
