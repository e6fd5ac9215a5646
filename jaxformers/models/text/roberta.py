"""RoBERTa and XLM-RoBERTa: BERT whose positions skip padding, with another masked-LM head and classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.heads.classify import FirstTokenHead, MultipleChoice, PooledClassifier, SequenceClassifier
from jaxformers.heads.lm import MaskedHead, MaskedLM
from jaxformers.models import Family, Task, register
from jaxformers.models.text.bert import BERT_KEYS, bert, check_bert, unpooled
from jaxformers.models.text.encoder_tasks import (
    CHOICE,
    FIRST_TOKEN,
    classifier_rate,
    masked_keys,
    padded_tables,
    text_encoding,
    token_tasks,
)
from jaxformers.nn.encoder import PaddedPositions, TextEncoder
from jaxformers.nn.norm import LayerNorm
from jaxformers.ops.activations import gelu


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(Config):
    model_type: ClassVar[str] = "roberta"

    vocab_size: int = 50265
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
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | tuple | None = 2
    use_cache: bool = True
    classifier_dropout: float | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    def validate(self) -> None:
        check_bert(self)
        if self.pad_token_id is None:
            raise ConfigError("pad_token_id is None; positions are counted from it, so name the padding token")


@dataclass(frozen=True, kw_only=True)
class XLMRobertaConfig(RobertaConfig):
    model_type: ClassVar[str] = "xlm-roberta"

    vocab_size: int = 30522


def roberta_unpooled(c: Any) -> TextEncoder:
    """The encoder without its pooler, as most heads use it."""
    return unpooled(c).clone(positions=PaddedPositions(c.pad_token_id))


def roberta(c: Any) -> TextEncoder:
    return bert(c).clone(positions=PaddedPositions(c.pad_token_id))


def roberta_lm_head(c: Any) -> MaskedHead:
    """dense, exact GELU whatever hidden_act says, norm, then the word table."""
    return MaskedHead(c.hidden_size, c.vocab_size, gelu, LayerNorm(c.layer_norm_eps), c.tie_word_embeddings)


roberta_lm_keys = masked_keys("lm_head.dense", "lm_head.layer_norm", "lm_head", "lm_head.decoder")


def roberta_tasks(name: str) -> Mapping[str, Task]:
    """Heads of a type called `name` in transformers."""
    masked = Task(
        f"{name}ForMaskedLM",
        lambda c, b: MaskedLM(b, roberta_lm_head(c)),
        roberta_lm_keys,
        backbone=roberta_unpooled,
    )
    causal = Task(f"{name}ForCausalLM", masked.build, roberta_lm_keys, backbone=roberta_unpooled)
    return {
        "PreTraining": masked,
        "MaskedLM": masked,
        "CausalLM": causal,
        "SequenceClassification": Task(
            f"{name}ForSequenceClassification",
            lambda c, b: SequenceClassifier(b, FirstTokenHead(c.hidden_size, c.num_labels, dropout=classifier_rate(c))),
            FIRST_TOKEN,
            backbone=roberta_unpooled,
        ),
        "MultipleChoice": Task(
            f"{name}ForMultipleChoice",
            lambda c, b: MultipleChoice(PooledClassifier(b, 1, c.hidden_dropout_prob)),
            CHOICE,
            at="classifier.backbone",
        ),
        **token_tasks(name, roberta_unpooled),
        **text_encoding(name),
    }


ROBERTA_INIT = padded_tables("embeddings.embed", "embeddings.positions")
for config, name in ((RobertaConfig, "Roberta"), (XLMRobertaConfig, "XLMRoberta")):
    register(Family(config, f"{name}Model", roberta, BERT_KEYS, "roberta", roberta_tasks(name), ROBERTA_INIT))
