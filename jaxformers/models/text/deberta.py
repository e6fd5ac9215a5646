"""DeBERTa v2 and v3: BERT whose attention reads the distance of two tokens, with a convolution in the first layer."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.classify import FirstTokenHead, MultipleChoice, SequenceClassifier
from jaxformers.heads.lm import MaskedHead, MaskedLM
from jaxformers.models import Family, Task, register
from jaxformers.models.text.bert import bert_lm_keys
from jaxformers.models.text.encoder_tasks import hidden_rate, padded_tables, text_encoding, token_tasks
from jaxformers.nn.conv_block import ConvBlock, TokenConv
from jaxformers.nn.disentangled import DisentangledAttention, RelativeStack
from jaxformers.nn.embed import Embed
from jaxformers.nn.encoder import TextEncoder
from jaxformers.nn.linear import Linear
from jaxformers.nn.masked_embed import MaskedEmbeddings
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation

# transformers reads these when they are there and fails when they are null.
OPTIONAL = ("embedding_size", "attention_head_size", "cls_dropout")


@dataclass(frozen=True, kw_only=True)
class DebertaV2Config(Config):
    model_type: ClassVar[str] = "deberta-v2"

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-7
    relative_attention: bool = False
    max_relative_positions: int = -1
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | tuple | None = None
    position_biased_input: bool = True
    pos_att_type: str | tuple | None = None
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    pooler_hidden_size: int | None = None
    legacy: bool = True
    tie_word_embeddings: bool = True
    # Fields below are no part of transformers' config class, yet its model reads them.
    share_att_key: bool = False
    position_buckets: int = -1
    norm_rel_ebd: str = "none"
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    embedding_size: int | None = None
    attention_head_size: int | None = None
    cls_dropout: float | None = None

    def downgrade(self, written: dict[str, Any]) -> dict[str, Any]:
        """Leave out what transformers must not find as null."""
        return {k: v for k, v in written.items() if v is not None or k not in OPTIONAL}

    def resolve(self) -> None:
        if isinstance(self.pos_att_type, str):
            self._set("pos_att_type", tuple(kind.strip() for kind in self.pos_att_type.lower().split("|")))
        self.default("pooler_hidden_size", self.hidden_size)

    def validate(self) -> None:
        width, heads = self.hidden_size, self.num_attention_heads
        if width % heads:
            raise ConfigError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
        if self.attention_head_size not in (None, width // heads):
            raise ConfigError(f"attention_head_size is {self.attention_head_size}; expected {width // heads}")
        if self.conv_kernel_size > 0 and self.conv_kernel_size % 2 == 0:
            raise ConfigError(f"conv_kernel_size is {self.conv_kernel_size}; expected an odd number, or 0 for none")
        if self.relative_attention and self.position_buckets == 1:
            raise ConfigError("position_buckets is 1; expected at least 2, or -1 for none")

    @property
    def words_width(self) -> int:
        """Width of the table of words."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def furthest(self) -> int:
        """The distance beyond which all are alike."""
        return self.max_relative_positions if self.max_relative_positions >= 1 else self.max_position_embeddings

    @property
    def span(self) -> int | None:
        """Rows of the table of distances on either side; None without relative attention."""
        if not self.relative_attention:
            return None
        return self.position_buckets if self.position_buckets > 0 else self.furthest


def embeddings(c: DebertaV2Config) -> MaskedEmbeddings:
    """Words, and positions and types where the config has them."""
    width = c.words_width

    def table(size: int) -> Embed:
        return Embed(size, width, axes=(None, "embed"))

    return MaskedEmbeddings(
        Embed(c.vocab_size, width),
        table(c.max_position_embeddings) if c.position_biased_input else None,
        table(c.type_vocab_size) if c.type_vocab_size > 0 else None,
        LayerNorm(c.layer_norm_eps),
        None if width == c.hidden_size else Linear(c.hidden_size, False, (None, "embed")),
        c.hidden_dropout_prob,
    )


def blocks(c: DebertaV2Config) -> Layers:
    """The layers; the first has the convolution beside it."""
    norm = LayerNorm(c.layer_norm_eps)
    attn = DisentangledAttention(
        c.num_attention_heads,
        c.hidden_size // c.num_attention_heads,
        c.pos_att_type or (),
        c.span,
        c.position_buckets,
        c.furthest,
        c.share_att_key,
        c.attention_probs_dropout_prob,
        c.hidden_dropout_prob,
    )
    mlp = Mlp(c.intermediate_size, activation(c.hidden_act))
    steps = (
        Residual("attn", attn, after=norm, dropout=c.hidden_dropout_prob),
        Residual("mlp", mlp, after=norm, dropout=c.hidden_dropout_prob),
    )
    first = Block(steps)
    if c.conv_kernel_size > 0:
        conv = TokenConv(c.conv_kernel_size, c.conv_groups)
        first = ConvBlock(
            steps,
            conv=conv,
            norm=LayerNorm(c.layer_norm_eps),
            act=activation(c.conv_act),
            dropout=c.hidden_dropout_prob,
        )
    return Layers((first, *(Block(steps),) * (c.num_hidden_layers - 1)))


def deberta(c: DebertaV2Config) -> TextEncoder:
    layers: Stack = Stack(blocks(c))
    if c.span is not None:
        normed = "layer_norm" in [word.strip() for word in c.norm_rel_ebd.lower().split("|")]
        norm = LayerNorm(c.layer_norm_eps) if normed else None
        table = Embed(2 * c.span, c.hidden_size, axes=(None, "embed"))
        layers = RelativeStack(blocks(c), table=table, table_norm=norm)
    return TextEncoder(embeddings(c), layers)


LAYER = "encoder.layer.{i}."
DEBERTA_KEYS = KeyMap(
    {
        "embeddings.embed": "embeddings.word_embeddings",
        "embeddings.positions": "embeddings.position_embeddings",
        "embeddings.types": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "embeddings.project": "embeddings.embed_proj",
        "layers.table": "encoder.rel_embeddings",
        "layers.table_norm": "encoder.LayerNorm",
        "layers.0.conv": "encoder.conv.conv",
        "layers.0.norm": "encoder.conv.LayerNorm",
        **{f"layers.{{i}}.attn.{p[0]}_proj": f"{LAYER}attention.self.{p}_proj" for p in ("query", "key", "value")},
        "layers.{i}.attn.k_r_proj": LAYER + "attention.self.pos_key_proj",
        "layers.{i}.attn.q_r_proj": LAYER + "attention.self.pos_query_proj",
        "layers.{i}.attn.o_proj": LAYER + "attention.output.dense",
        "layers.{i}.attn_after": LAYER + "attention.output.LayerNorm",
        "layers.{i}.mlp.fc1": LAYER + "intermediate.dense",
        "layers.{i}.mlp.fc2": LAYER + "output.dense",
        "layers.{i}.mlp_after": LAYER + "output.LayerNorm",
    },
    ignore=(r"^embeddings\.position_ids$",),
)


def masked_lm(c: DebertaV2Config, backbone: TextEncoder) -> MaskedLM:
    """dense, activation, norm, then the word table, which the newer head always shares."""
    if not c.legacy and c.words_width != c.hidden_size:
        raise ConfigError(
            f"legacy=False reads the word table backwards at hidden_size {c.hidden_size}, but embedding_size is "
            f"{c.words_width}; expected them equal"
        )
    norm, tied = LayerNorm(c.layer_norm_eps), c.tie_word_embeddings or not c.legacy
    return MaskedLM(backbone, MaskedHead(c.words_width, c.vocab_size, activation(c.hidden_act), norm, tied))


def masked_lm_keys(c: DebertaV2Config) -> KeyMap:
    """Where the masked-LM head lies."""
    if c.legacy:
        return bert_lm_keys(c)
    head = "lm_predictions.lm_head"
    return KeyMap({"head.dense": head + ".dense", "head.norm": head + ".LayerNorm", "head": head})


def classifier(c: DebertaV2Config, labels: int) -> FirstTokenHead:
    """The pooler and the classifier in one."""
    if c.pooler_hidden_size != c.hidden_size:
        raise ConfigError(f"pooler_hidden_size is {c.pooler_hidden_size}; expected hidden_size, {c.hidden_size}")
    rate = c.hidden_dropout_prob if c.cls_dropout is None else c.cls_dropout
    return FirstTokenHead(c.hidden_size, labels, activation(c.pooler_hidden_act), rate, c.pooler_dropout)


MASKED = Task("DebertaV2ForMaskedLM", masked_lm, masked_lm_keys)
TASKS = {
    "PreTraining": MASKED,
    "MaskedLM": MASKED,
    "SequenceClassification": Task(
        "DebertaV2ForSequenceClassification",
        lambda c, b: SequenceClassifier(b, classifier(c, c.num_labels)),
        KeyMap({"head.dense": "pooler.dense", "head.out": "classifier"}),
    ),
    "MultipleChoice": Task(
        "DebertaV2ForMultipleChoice",
        lambda c, b: MultipleChoice(SequenceClassifier(b, classifier(c, 1))),
        KeyMap({"classifier.head.dense": "pooler.dense", "classifier.head.out": "classifier"}),
        at="classifier.backbone",
    ),
    **token_tasks("DebertaV2", deberta, hidden_rate),
    **text_encoding("DebertaV2"),
}

register(
    Family(
        DebertaV2Config, "DebertaV2Model", deberta, DEBERTA_KEYS, "deberta", TASKS, padded_tables("embeddings.embed")
    )
)
