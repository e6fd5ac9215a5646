"""BERT: norm after each branch, learned positions and token types, a pooler on the first token; it may also decode."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.classify import MultipleChoice, PooledClassifier
from jaxformers.heads.lm import MaskedHead, MaskedLM
from jaxformers.heads.pretraining import SentencePair
from jaxformers.models import Family, Task, register
from jaxformers.models.text.encoder_tasks import (
    CHOICE,
    CLASSIFIER,
    classifier_rate,
    masked_keys,
    padded_tables,
    text_encoding,
    token_tasks,
)
from jaxformers.nn.attention import Attention
from jaxformers.nn.cross import OptionalCrossAttention
from jaxformers.nn.embed import Embed
from jaxformers.nn.encoder import Pooler, TextEmbeddings, TextEncoder
from jaxformers.nn.linear import Linear
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class BertConfig(Config):
    model_type: ClassVar[str] = "bert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    use_cache: bool = True
    classifier_dropout: float | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | tuple | None = None
    tie_word_embeddings: bool = True

    def validate(self) -> None:
        check_bert(self)


def check_bert(c: Any) -> None:
    """Raise ConfigError for what BERT's line cannot be."""
    if c.hidden_size % c.num_attention_heads:
        raise ConfigError(
            f"hidden_size {c.hidden_size} is not a multiple of num_attention_heads {c.num_attention_heads}"
        )
    if getattr(c, "add_cross_attention", False) and not c.is_decoder:
        raise ConfigError("add_cross_attention needs a decoder: set is_decoder=True as well")
    kind = c.extra.get("position_embedding_type", "absolute")
    if kind not in (None, "absolute"):
        raise ConfigError(f"position_embedding_type {kind!r} is not supported (nor is it by transformers 5)")


def bert_block(c: Any) -> Block:
    """One layer: attention, attention over an encoder if asked for, feed-forward; a norm after each sum."""
    norm = LayerNorm(c.layer_norm_eps)
    heads, dim = c.num_attention_heads, c.hidden_size // c.num_attention_heads
    drop = c.attention_probs_dropout_prob
    attn = Attention(heads, heads, dim, qkv_bias=True, out_bias=True, dropout=drop)
    steps = [Residual("attn", attn, after=norm, dropout=c.hidden_dropout_prob)]
    if c.add_cross_attention:
        cross = OptionalCrossAttention(heads, dim, qkv_bias=True, out_bias=True, dropout=drop)
        steps.append(Residual("cross", cross, after=norm, dropout=c.hidden_dropout_prob))
    mlp = Mlp(c.intermediate_size, activation(c.hidden_act))
    return Block((*steps, Residual("mlp", mlp, after=norm, dropout=c.hidden_dropout_prob)))


def bert_embeddings(c: Any, project: nn.Module | None = None) -> TextEmbeddings:
    """Words, positions and types, summed and normed. The width is embedding_size where a config has one."""
    width = getattr(c, "embedding_size", c.hidden_size)
    return TextEmbeddings(
        Embed(c.vocab_size, width),
        Embed(c.max_position_embeddings, width, axes=(None, "embed")),
        Embed(c.type_vocab_size, width, axes=(None, "embed")),
        LayerNorm(c.layer_norm_eps),
        project,
        c.hidden_dropout_prob,
    )


def unpooled(c: Any) -> TextEncoder:
    """The encoder without its pooler, as most heads use it."""
    layers = Stack(Layers((bert_block(c),) * c.num_hidden_layers))
    encoder_width = c.hidden_size if c.add_cross_attention else None
    return TextEncoder(bert_embeddings(c), layers, causal=c.is_decoder, encoder_width=encoder_width)


def bert(c: Any) -> TextEncoder:
    return unpooled(c).clone(pooler=Pooler(c.hidden_size))


LAYER = "encoder.layer.{i}."
BERT_KEYS = KeyMap(
    {
        "embeddings.embed": "embeddings.word_embeddings",
        "embeddings.positions": "embeddings.position_embeddings",
        "embeddings.types": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        **{
            f"layers.{{i}}.{ours}.{p[0]}_proj": f"{LAYER}{theirs}.self.{p}"
            for ours, theirs in (("attn", "attention"), ("cross", "crossattention"))
            for p in ("query", "key", "value")
        },
        "layers.{i}.attn.o_proj": LAYER + "attention.output.dense",
        "layers.{i}.attn_after": LAYER + "attention.output.LayerNorm",
        "layers.{i}.cross.o_proj": LAYER + "crossattention.output.dense",
        "layers.{i}.cross_after": LAYER + "crossattention.output.LayerNorm",
        "layers.{i}.mlp.fc1": LAYER + "intermediate.dense",
        "layers.{i}.mlp.fc2": LAYER + "output.dense",
        "layers.{i}.mlp_after": LAYER + "output.LayerNorm",
        "pooler.dense": "pooler.dense",
    },
    ignore=(r"^embeddings\.position_ids$",),
)


def bert_lm_head(c: Any) -> MaskedHead:
    """dense, activation, norm, then the word table."""
    norm = LayerNorm(c.layer_norm_eps)
    return MaskedHead(c.hidden_size, c.vocab_size, activation(c.hidden_act), norm, c.tie_word_embeddings)


TRANSFORM = "cls.predictions.transform."
bert_lm_keys = masked_keys(TRANSFORM + "dense", TRANSFORM + "LayerNorm", "cls.predictions", "cls.predictions.decoder")
NEXT_SENTENCE = KeyMap({"head": "cls.seq_relationship"})


def pretraining_keys(c: Any) -> KeyMap:
    """Both heads of BERT's pretraining."""
    return KeyMap({"pair": "cls.seq_relationship"}) | bert_lm_keys(c)


TASKS = {
    "PreTraining": Task(
        "BertForPreTraining",
        lambda c, b: SentencePair(b, bert_lm_head(c), Linear(2, True, ("embed", None))),
        pretraining_keys,
    ),
    "CausalLM": Task("BertLMHeadModel", lambda c, b: MaskedLM(b, bert_lm_head(c)), bert_lm_keys, backbone=unpooled),
    "MaskedLM": Task("BertForMaskedLM", lambda c, b: MaskedLM(b, bert_lm_head(c)), bert_lm_keys, backbone=unpooled),
    "SequenceClassification": Task(
        "BertForSequenceClassification",
        lambda c, b: PooledClassifier(b, c.num_labels, classifier_rate(c)),
        CLASSIFIER,
    ),
    "NextSentencePrediction": Task("BertForNextSentencePrediction", lambda c, b: PooledClassifier(b, 2), NEXT_SENTENCE),
    "MultipleChoice": Task(
        "BertForMultipleChoice",
        lambda c, b: MultipleChoice(PooledClassifier(b, 1, classifier_rate(c))),
        CHOICE,
        at="classifier.backbone",
    ),
    **token_tasks("Bert", unpooled),
    **text_encoding("Bert"),
}

register(Family(BertConfig, "BertModel", bert, BERT_KEYS, "bert", TASKS, padded_tables("embeddings.embed")))
