"""ALBERT: BERT with narrow embeddings and layers that share parameters, whole groups of them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.classify import MultipleChoice, PooledClassifier
from jaxformers.heads.lm import MaskedHead, MaskedLM
from jaxformers.heads.pretraining import SentencePair
from jaxformers.models import Family, Task, register
from jaxformers.models.text.bert import bert_embeddings, check_bert
from jaxformers.models.text.encoder_tasks import (
    CHOICE,
    CLASSIFIER,
    masked_keys,
    padded_tables,
    text_encoding,
    token_tasks,
)
from jaxformers.nn.attention import Attention
from jaxformers.nn.encoder import Pooler, TextEncoder
from jaxformers.nn.linear import Linear
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.shared import SharedStack
from jaxformers.nn.stack import Layers
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class AlbertConfig(Config):
    model_type: ClassVar[str] = "albert"

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    inner_group_num: int = 1
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout_prob: float | None = 0.1
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | tuple | None = 3
    tie_word_embeddings: bool = True

    def validate(self) -> None:
        check_bert(self)
        if 0 in group_sizes(self):
            raise ConfigError(
                f"num_hidden_groups {self.num_hidden_groups} is more than num_hidden_layers {self.num_hidden_layers}; "
                "a group without layers would carry parameters that nothing reads"
            )


def group_sizes(c: AlbertConfig) -> tuple[int, ...]:
    """How many layers each group of parameters serves."""
    groups = [int(i / (c.num_hidden_layers / c.num_hidden_groups)) for i in range(c.num_hidden_layers)]
    return tuple(groups.count(g) for g in range(c.num_hidden_groups))


def unpooled(c: AlbertConfig) -> TextEncoder:
    """The encoder without its pooler, as most heads use it."""
    norm, heads = LayerNorm(c.layer_norm_eps), c.num_attention_heads
    drop = c.attention_probs_dropout_prob
    attn = Attention(heads, heads, c.hidden_size // heads, qkv_bias=True, out_bias=True, dropout=drop)
    mlp = Mlp(c.intermediate_size, activation(c.hidden_act))
    # Only the attention's output is dropped out, though the config speaks of all hidden values.
    steps = (Residual("attn", attn, after=norm, dropout=c.hidden_dropout_prob), Residual("mlp", mlp, after=norm))
    layers = SharedStack(Layers((Block(steps),) * c.inner_group_num), repeats=group_sizes(c))
    return TextEncoder(bert_embeddings(c, Linear(c.hidden_size, True, (None, "embed"))), layers)


def albert(c: AlbertConfig) -> TextEncoder:
    return unpooled(c).clone(pooler=Pooler(c.hidden_size))


OURS, THEIRS = "layers.{g}.{j}.", "encoder.albert_layer_groups.{g}.albert_layers.{j}."
ALBERT_KEYS = KeyMap(
    {
        "embeddings.embed": "embeddings.word_embeddings",
        "embeddings.positions": "embeddings.position_embeddings",
        "embeddings.types": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "embeddings.project": "encoder.embedding_hidden_mapping_in",
        **{f"{OURS}attn.{p[0]}_proj": f"{THEIRS}attention.{p}" for p in ("query", "key", "value")},
        OURS + "attn.o_proj": THEIRS + "attention.dense",
        OURS + "attn_after": THEIRS + "attention.LayerNorm",
        OURS + "mlp.fc1": THEIRS + "ffn",
        OURS + "mlp.fc2": THEIRS + "ffn_output",
        OURS + "mlp_after": THEIRS + "full_layer_layer_norm",
        "pooler.dense": "pooler",
    },
    ignore=(r"^embeddings\.position_ids$",),
)


def classifier_rate(c: AlbertConfig) -> float:
    """Dropout before a classifier."""
    return c.hidden_dropout_prob if c.classifier_dropout_prob is None else c.classifier_dropout_prob


def masked_head(c: Any) -> MaskedHead:
    """dense to the embeddings' width, activation, norm, then the word table."""
    norm = LayerNorm(c.layer_norm_eps)
    return MaskedHead(c.embedding_size, c.vocab_size, activation(c.hidden_act), norm, c.tie_word_embeddings)


def pretraining(c: AlbertConfig, backbone: TextEncoder) -> SentencePair:
    """Words, and whether two sentences stand in order."""
    pair = Linear(c.num_labels, True, ("embed", None))
    return SentencePair(backbone, masked_head(c), pair, order=True, dropout=classifier_rate(c))


masked_lm_keys = masked_keys("predictions.dense", "predictions.LayerNorm", "predictions", "predictions.decoder")
TASKS = {
    "PreTraining": Task(
        "AlbertForPreTraining",
        pretraining,
        lambda c: KeyMap({"pair": "sop_classifier.classifier"}) | masked_lm_keys(c),
    ),
    "MaskedLM": Task("AlbertForMaskedLM", lambda c, b: MaskedLM(b, masked_head(c)), masked_lm_keys, backbone=unpooled),
    "SequenceClassification": Task(
        "AlbertForSequenceClassification",
        lambda c, b: PooledClassifier(b, c.num_labels, classifier_rate(c)),
        CLASSIFIER,
    ),
    "MultipleChoice": Task(
        "AlbertForMultipleChoice",
        lambda c, b: MultipleChoice(PooledClassifier(b, 1, classifier_rate(c))),
        CHOICE,
        at="classifier.backbone",
    ),
    **token_tasks("Albert", unpooled, classifier_rate),
    **text_encoding("Albert"),
}

register(Family(AlbertConfig, "AlbertModel", albert, ALBERT_KEYS, "albert", TASKS, padded_tables("embeddings.embed")))
