"""GPT-2: learned positions, fused q, k, v stored [in, out], token types from the word table; may read an encoder."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.models import Family, Task, register
from jaxformers.models.tasks import lm_keys
from jaxformers.models.text.gpt_parts import gpt_tasks
from jaxformers.models.text.parts import check_width
from jaxformers.nn.attention import Attention
from jaxformers.nn.cross import OptionalCrossAttention
from jaxformers.nn.embed import Embed
from jaxformers.nn.encoder import TextEncoder
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import Normal
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.shared_types import SharedTypeEmbeddings
from jaxformers.nn.stack import Layers, Stack
from jaxformers.nn.upcast import UpcastAttention
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class GPT2Config(Config):
    model_type: ClassVar[str] = "gpt2"
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    # The summary fields belong to the double-heads model alone, which no auto class reaches.
    summary_type: str = "cls_index"
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: float = 0.1
    scale_attn_weights: bool = True
    use_cache: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple | None = 50256
    pad_token_id: int | None = None
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    def validate(self) -> None:
        check_width(self)


def gpt2_block(c: Any, layer: int) -> Block:
    """Layer number `layer`: attention, attention over an encoder if asked for, feed-forward."""
    norm = LayerNorm(c.layer_norm_epsilon)
    heads, dim = c.n_head, c.n_embd // c.n_head
    scale = dim**-0.5 if c.scale_attn_weights else 1.0
    if c.scale_attn_by_inverse_layer_idx:
        scale /= layer + 1
    fields: dict[str, Any] = {"qkv_bias": True, "out_bias": True, "scale": scale, "dropout": c.attn_pdrop}
    attention = UpcastAttention if c.reorder_and_upcast_attn else Attention
    branches: dict[str, nn.Module] = {"attn": attention(heads, heads, dim, **fields)}
    if c.add_cross_attention:
        branches["cross"] = OptionalCrossAttention(heads, dim, **fields)
    width = 4 * c.n_embd if c.n_inner is None else c.n_inner
    branches["mlp"] = Mlp(width, activation(c.activation_function))
    return Block(tuple(Residual(name, b, pre=norm, dropout=c.resid_pdrop) for name, b in branches.items()))


def gpt2(c: Any) -> TextEncoder:
    positions = Embed(c.n_positions, c.n_embd, axes=(None, "embed"))
    embeddings = SharedTypeEmbeddings(Embed(c.vocab_size, c.n_embd), positions, dropout=c.embd_pdrop)
    layers = Stack(Layers(tuple(gpt2_block(c, i) for i in range(c.n_layer))))
    heard = c.n_embd if c.add_cross_attention else None
    return TextEncoder(embeddings, layers, LayerNorm(c.layer_norm_epsilon), causal=True, encoder_width=heard)


def gpt2_keys(c: Any) -> KeyMap:
    """Kernels are stored [in, out]; q, k and v are thirds of one matrix."""
    layer = "h.{i}."

    def third(key: str, parts: int, n: int) -> Part:
        return Part(layer + key, (parts, c.n_embd), n, in_out=True)

    return KeyMap(
        {
            "embeddings.embed": "wte",
            "embeddings.positions": "wpe",
            "norm": "ln_f",
            "layers.{i}.attn_pre": layer + "ln_1",
            "layers.{i}.cross_pre": layer + "ln_cross_attn",
            "layers.{i}.mlp_pre": layer + "ln_2",
            **{f"layers.{{i}}.attn.{name}_proj": third("attn.c_attn", 3, n) for n, name in enumerate("qkv")},
            "layers.{i}.attn.o_proj": Part(layer + "attn.c_proj", in_out=True),
            "layers.{i}.cross.q_proj": Part(layer + "crossattention.q_attn", in_out=True),
            **{f"layers.{{i}}.cross.{name}_proj": third("crossattention.c_attn", 2, n) for n, name in enumerate("kv")},
            "layers.{i}.cross.o_proj": Part(layer + "crossattention.c_proj", in_out=True),
            "layers.{i}.mlp.fc1": Part(layer + "mlp.c_fc", in_out=True),
            "layers.{i}.mlp.fc2": Part(layer + "mlp.c_proj", in_out=True),
        },
        ignore=(r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)$",),  # causal masks of early files
    )


def gpt2_init(c: Any) -> Mapping[str, Callable]:
    """Projections back to the stream start smaller, as two of them end in every layer."""
    return {r"\.(o_proj|fc2)\.kernel$": Normal(c.initializer_range / math.sqrt(2 * c.n_layer))}


def lm_task(tasks: Mapping[str, Task]) -> Task:
    """GPT-2's language model goes by another name than its kin's."""
    return Task("GPT2LMHeadModel", tasks["CausalLM"].build, lm_keys())


HEADS = gpt_tasks("GPT2", "transformer")
TASKS = {**HEADS, "PreTraining": lm_task(HEADS), "CausalLM": lm_task(HEADS)}
register(Family(GPT2Config, "GPT2Model", gpt2, gpt2_keys, "transformer", TASKS, gpt2_init))
