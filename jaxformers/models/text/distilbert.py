"""DistilBERT: BERT without token types and pooler; its classifiers carry a pooler of their own."""

from dataclasses import dataclass
from typing import ClassVar

from jax.nn import relu

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.classify import MultipleChoice, PooledClassifier
from jaxformers.heads.lm import MaskedHead, MaskedLM
from jaxformers.heads.tokens import SpanFinder, TokenClassifier
from jaxformers.models import Family, Task, register
from jaxformers.models.text.encoder_tasks import CHOICE, CLASSIFIER, masked_keys, padded_tables, text_encoding
from jaxformers.nn.attention import Attention
from jaxformers.nn.embed import Embed
from jaxformers.nn.encoder import Pooler, TextEmbeddings, TextEncoder
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import Sinusoids
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig(Config):
    model_type: ClassVar[str] = "distilbert"
    aliases: ClassVar = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 4 * 768
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    pad_token_id: int | None = 0
    eos_token_id: int | tuple | None = None
    bos_token_id: int | None = None
    tie_word_embeddings: bool = True

    def validate(self) -> None:
        if self.dim % self.n_heads:
            raise ConfigError(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}")


EPS = 1e-12


def distilbert(c: DistilBertConfig) -> TextEncoder:
    attn = Attention(
        c.n_heads, c.n_heads, c.dim // c.n_heads, qkv_bias=True, out_bias=True, dropout=c.attention_dropout
    )
    mlp = Mlp(c.hidden_dim, activation(c.activation))
    block = Block(
        (Residual("attn", attn, after=LayerNorm(EPS)), Residual("mlp", mlp, after=LayerNorm(EPS), dropout=c.dropout))
    )
    embeddings = TextEmbeddings(
        Embed(c.vocab_size, c.dim),
        Embed(c.max_position_embeddings, c.dim, axes=(None, "embed")),
        norm=LayerNorm(EPS),
        dropout=c.dropout,
    )
    return TextEncoder(embeddings, Stack(Layers((block,) * c.n_layers)))


def pooled(c: DistilBertConfig) -> TextEncoder:
    """The encoder with the classifiers' first layer as its pooler."""
    return distilbert(c).clone(pooler=Pooler(c.dim, relu))


LAYER = "transformer.layer.{i}."
DISTILBERT_KEYS = KeyMap(
    {
        "embeddings.embed": "embeddings.word_embeddings",
        "embeddings.positions": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        **{f"layers.{{i}}.attn.{p}_proj": f"{LAYER}attention.{p}_lin" for p in "qkv"},
        "layers.{i}.attn.o_proj": LAYER + "attention.out_lin",
        "layers.{i}.attn_after": LAYER + "sa_layer_norm",
        "layers.{i}.mlp.fc1": LAYER + "ffn.lin1",
        "layers.{i}.mlp.fc2": LAYER + "ffn.lin2",
        "layers.{i}.mlp_after": LAYER + "output_layer_norm",
    },
    ignore=(r"^embeddings\.position_ids$",),
)


def masked_lm(c: DistilBertConfig, backbone: TextEncoder) -> MaskedLM:
    """dense, activation, norm, then the word table."""
    return MaskedLM(
        backbone, MaskedHead(c.dim, c.vocab_size, activation(c.activation), LayerNorm(EPS), c.tie_word_embeddings)
    )


def init(c: DistilBertConfig):
    """Sinusoids in the table of positions if asked for; training may change them."""
    positions = {r"embeddings\.positions\.embedding$": Sinusoids()} if c.sinusoidal_pos_embds else {}
    return {**positions, **padded_tables("embeddings.embed")(c)}


MASKED = Task(
    "DistilBertForMaskedLM",
    masked_lm,
    masked_keys("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector"),
)
TASKS = {
    "PreTraining": MASKED,
    "MaskedLM": MASKED,
    "SequenceClassification": Task(
        "DistilBertForSequenceClassification",
        lambda c, b: PooledClassifier(b, c.num_labels, c.seq_classif_dropout),
        CLASSIFIER | KeyMap({"backbone.pooler.dense": "pre_classifier"}),
        backbone=pooled,
    ),
    "MultipleChoice": Task(
        "DistilBertForMultipleChoice",
        lambda c, b: MultipleChoice(PooledClassifier(b, 1, c.seq_classif_dropout)),
        CHOICE | KeyMap({"classifier.backbone.pooler.dense": "pre_classifier"}),
        at="classifier.backbone",
        backbone=pooled,
    ),
    "TokenClassification": Task(
        "DistilBertForTokenClassification", lambda c, b: TokenClassifier(b, c.num_labels, c.dropout), CLASSIFIER
    ),
    "QuestionAnswering": Task(
        "DistilBertForQuestionAnswering", lambda c, b: SpanFinder(b, c.qa_dropout), KeyMap({"head": "qa_outputs"})
    ),
    **text_encoding("DistilBert"),
}

register(Family(DistilBertConfig, "DistilBertModel", distilbert, DISTILBERT_KEYS, "distilbert", TASKS, init))
