"""GPT-NeoX (Pythia): rotary positions on a part of each head, attention and feed-forward side by side."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.models import Family, Task, register
from jaxformers.models.text.gpt_parts import gpt_tasks, qkv_by_head
from jaxformers.models.text.parts import check_width, decoder, head_dim, rope
from jaxformers.nn.attention import Attention
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stem import Stem
from jaxformers.ops.activations import activation

# transformers 4's names of two rotary settings, and 5's.
OLD_NAMES = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}


@dataclass(frozen=True, kw_only=True)
class GPTNeoXConfig(Config):
    model_type: ClassVar[str] = "gpt_neox"

    vocab_size: int = 50432
    hidden_size: int = 6144
    num_hidden_layers: int = 44
    num_attention_heads: int = 64
    intermediate_size: int = 24576
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    classifier_dropout: float = 0.1
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    use_cache: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | tuple | None = 2
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False
    use_parallel_residual: bool = True
    rope_parameters: FrozenDict | None = None
    attention_bias: bool = True
    is_decoder: bool = False  # no model reads it

    @classmethod
    def upgrade(cls, raw: dict[str, Any]) -> dict[str, Any]:
        given = {new: raw.pop(old, None) for old, new in OLD_NAMES.items()}
        return {**raw, **{k: v for k, v in given.items() if v is not None}}

    def downgrade(self, written: dict[str, Any]) -> dict[str, Any]:
        return {**written, **{old: written[new] for old, new in OLD_NAMES.items()}}

    def resolve(self) -> None:
        self._set("rope_parameters", FrozenDict({"partial_rotary_factor": 0.25, **(self.rope_parameters or {})}))

    def validate(self) -> None:
        check_width(self)


def gpt_neox(c: Any) -> Decoder:
    norm, drop = LayerNorm(c.layer_norm_eps), c.hidden_dropout
    attn = Attention(
        c.num_attention_heads,
        c.num_attention_heads,
        head_dim(c),
        rope(c),
        qkv_bias=c.attention_bias,
        out_bias=c.attention_bias,
        dropout=c.attention_dropout,
    )
    mlp = Mlp(c.intermediate_size, activation(c.hidden_act))
    steps = (Residual("attn", attn, pre=norm, dropout=drop), Residual("mlp", mlp, pre=norm, dropout=drop))
    block = Block(steps, parallel=c.use_parallel_residual)
    return decoder(c, lambda i: block, norm, stem=Stem(dropout=drop))


def gpt_neox_keys(c: Any) -> KeyMap:
    """q, k and v lie together, head by head."""
    layer = "layers.{i}."
    return KeyMap(
        {
            "embed": "embed_in",
            "norm": "final_layer_norm",
            "layers.{i}.attn_pre": layer + "input_layernorm",
            "layers.{i}.mlp_pre": layer + "post_attention_layernorm",
            **qkv_by_head(layer + "attention.query_key_value", c.num_attention_heads, head_dim(c)),
            "layers.{i}.attn.o_proj": layer + "attention.dense",
            "layers.{i}.mlp.fc1": layer + "mlp.dense_h_to_4h",
            "layers.{i}.mlp.fc2": layer + "mlp.dense_4h_to_h",
        },
        ignore=(r"attention\.(bias|masked_bias)$", r"rotary_emb\.inv_freq$"),
    )


def embed_out(c: Any) -> KeyMap:
    """The head's name in files; transformers 5 calls it lm_head in memory."""
    if c.tie_word_embeddings:
        return KeyMap(ignore=(r"^(embed_out|lm_head)\.",))
    return KeyMap({"head": Part("embed_out", also=("lm_head",))})


HEADS = gpt_tasks("GPTNeoX", "gpt_neox")
TASKS = {
    **HEADS,
    "CausalLM": Task("GPTNeoXForCausalLM", HEADS["CausalLM"].build, embed_out, modules=((r"^embed_out$", "lm_head"),)),
}
register(Family(GPTNeoXConfig, "GPTNeoXModel", gpt_neox, gpt_neox_keys, "gpt_neox", TASKS))
