"""MPNet: RoBERTa without token types, and with a bias by relative position shared by all layers."""

from dataclasses import dataclass
from typing import ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.classify import FirstTokenHead, MultipleChoice, PooledClassifier, SequenceClassifier
from jaxformers.heads.lm import MaskedHead, MaskedLM
from jaxformers.models import Family, Task, register
from jaxformers.models.text.encoder_tasks import CHOICE, FIRST_TOKEN, hidden_rate, masked_keys, token_tasks
from jaxformers.nn.attention import Attention
from jaxformers.nn.embed import Embed
from jaxformers.nn.encoder import PaddedPositions, Pooler, TextEmbeddings, TextEncoder
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import PaddedNormal
from jaxformers.nn.relative import RelativeBias
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation, gelu

PAD = 1  # fixed in the architecture, whatever pad_token_id says
BUCKETS = 32  # so is the number of buckets in use; the config only sizes their table


@dataclass(frozen=True, kw_only=True)
class MPNetConfig(Config):
    model_type: ClassVar[str] = "mpnet"

    vocab_size: int = 30527
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    relative_attention_num_buckets: int = 32
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | tuple | None = 2
    tie_word_embeddings: bool = True

    def validate(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.relative_attention_num_buckets < BUCKETS:
            raise ConfigError(
                f"relative_attention_num_buckets is {self.relative_attention_num_buckets}; MPNet always uses {BUCKETS}"
            )


def unpooled(c: MPNetConfig) -> TextEncoder:
    """The encoder without its pooler, as most heads use it."""
    norm, heads = LayerNorm(c.layer_norm_eps), c.num_attention_heads
    drop = c.attention_probs_dropout_prob
    attn = Attention(heads, heads, c.hidden_size // heads, qkv_bias=True, out_bias=True, dropout=drop)
    mlp = Mlp(c.intermediate_size, activation(c.hidden_act))
    block = Block(
        (
            Residual("attn", attn, after=norm, dropout=c.hidden_dropout_prob),
            Residual("mlp", mlp, after=norm, dropout=c.hidden_dropout_prob),
        )
    )
    embeddings = TextEmbeddings(
        Embed(c.vocab_size, c.hidden_size),
        Embed(c.max_position_embeddings, c.hidden_size, axes=(None, "embed")),
        norm=norm,
        dropout=c.hidden_dropout_prob,
    )
    bias = RelativeBias(heads, BUCKETS, table_size=c.relative_attention_num_buckets)
    layers = Stack(Layers((block,) * c.num_hidden_layers))
    return TextEncoder(embeddings, layers, bias=bias, positions=PaddedPositions(PAD))


def mpnet(c: MPNetConfig) -> TextEncoder:
    return unpooled(c).clone(pooler=Pooler(c.hidden_size))


LAYER = "encoder.layer.{i}."
MPNET_KEYS = KeyMap(
    {
        "embeddings.embed": "embeddings.word_embeddings",
        "embeddings.positions": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "bias.table": "encoder.relative_attention_bias",
        **{f"layers.{{i}}.attn.{p}_proj": f"{LAYER}attention.attn.{p}" for p in "qkvo"},
        "layers.{i}.attn_after": LAYER + "attention.LayerNorm",
        "layers.{i}.mlp.fc1": LAYER + "intermediate.dense",
        "layers.{i}.mlp.fc2": LAYER + "output.dense",
        "layers.{i}.mlp_after": LAYER + "output.LayerNorm",
        "pooler.dense": "pooler.dense",
    },
    ignore=(r"^embeddings\.position_ids$",),
)


def masked_lm(c: MPNetConfig, backbone: TextEncoder) -> MaskedLM:
    """dense, exact GELU whatever hidden_act says, norm, then the word table."""
    head = MaskedHead(c.hidden_size, c.vocab_size, gelu, LayerNorm(c.layer_norm_eps), c.tie_word_embeddings)
    return MaskedLM(backbone, head)


def init(c: MPNetConfig):
    """Zeros in the padding rows of words and positions."""
    return {r"embeddings\.(embed|positions)\.embedding$": PaddedNormal(c.initializer_range or 0.02, PAD)}


MASKED = Task(
    "MPNetForMaskedLM",
    masked_lm,
    masked_keys("lm_head.dense", "lm_head.layer_norm", "lm_head", "lm_head.decoder"),
    backbone=unpooled,
)
TASKS = {
    "PreTraining": MASKED,
    "MaskedLM": MASKED,
    "SequenceClassification": Task(
        "MPNetForSequenceClassification",
        lambda c, b: SequenceClassifier(b, FirstTokenHead(c.hidden_size, c.num_labels, dropout=c.hidden_dropout_prob)),
        FIRST_TOKEN,
        backbone=unpooled,
    ),
    "MultipleChoice": Task(
        "MPNetForMultipleChoice",
        lambda c, b: MultipleChoice(PooledClassifier(b, 1, c.hidden_dropout_prob)),
        CHOICE,
        at="classifier.backbone",
    ),
    **token_tasks("MPNet", unpooled, hidden_rate),
}

register(Family(MPNetConfig, "MPNetModel", mpnet, MPNET_KEYS, "mpnet", TASKS, init))
