"""ELECTRA: BERT without a pooler, with narrow embeddings; a generator fills masks, a discriminator spots its words."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.classify import FirstTokenHead, MultipleChoice, SequenceClassifier
from jaxformers.heads.lm import MaskedHead, MaskedLM
from jaxformers.heads.pretraining import ReplacedTokens
from jaxformers.heads.summary import SummaryHead, first_token, last_token, mean_token
from jaxformers.models import Family, Task, register
from jaxformers.models.text.bert import BERT_KEYS, bert_embeddings, check_bert, unpooled
from jaxformers.models.text.encoder_tasks import (
    FIRST_TOKEN,
    classifier_rate,
    masked_keys,
    padded_tables,
    text_encoding,
    token_tasks,
)
from jaxformers.nn.encoder import TextEncoder
from jaxformers.nn.linear import Linear
from jaxformers.nn.norm import LayerNorm
from jaxformers.ops.activations import activation, gelu

# Without an index of its own, transformers' "cls_index" is the last token.
SUMMARIES = {"first": first_token, "last": last_token, "mean": mean_token, "cls_index": last_token}


@dataclass(frozen=True, kw_only=True)
class ElectraConfig(Config):
    model_type: ClassVar[str] = "electra"

    vocab_size: int = 30522
    embedding_size: int = 128
    hidden_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_activation: str | None = "gelu"
    summary_last_dropout: float = 0.1
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


def electra(c: ElectraConfig) -> TextEncoder:
    project = None if c.embedding_size == c.hidden_size else Linear(c.hidden_size, True, (None, "embed"))
    return unpooled(c).clone(embeddings=bert_embeddings(c, project))


ELECTRA_KEYS = BERT_KEYS | KeyMap({"embeddings.project": "embeddings_project"})


def masked_lm(c: Any, backbone: TextEncoder) -> MaskedLM:
    """dense to the embeddings' width, exact GELU whatever hidden_act says, norm, then the word table."""
    head = MaskedHead(c.embedding_size, c.vocab_size, gelu, LayerNorm(c.layer_norm_eps), c.tie_word_embeddings)
    return MaskedLM(backbone, head)


def multiple_choice(c: ElectraConfig, backbone: TextEncoder) -> MultipleChoice:
    """One score from a summary of each choice."""
    if c.summary_type not in SUMMARIES:
        raise ConfigError(f"summary_type {c.summary_type!r} is unknown; expected one of {', '.join(SUMMARIES)}")
    width = c.hidden_size if c.summary_use_proj else None
    act = activation(c.summary_activation) if c.summary_activation else None
    head = SummaryHead(1, SUMMARIES[c.summary_type], width, act, c.summary_last_dropout)
    return MultipleChoice(SequenceClassifier(backbone, head))


GENERATOR = "generator_predictions."
masked_lm_keys = masked_keys(GENERATOR + "dense", GENERATOR + "LayerNorm", "generator_lm_head", "generator_lm_head")
TASKS = {
    "PreTraining": Task(
        "ElectraForPreTraining",
        lambda c, b: ReplacedTokens(b, c.hidden_size, activation(c.hidden_act)),
        KeyMap({"dense": "discriminator_predictions.dense", "out": "discriminator_predictions.dense_prediction"}),
    ),
    "CausalLM": Task("ElectraForCausalLM", masked_lm, masked_lm_keys),
    "MaskedLM": Task("ElectraForMaskedLM", masked_lm, masked_lm_keys),
    "SequenceClassification": Task(
        "ElectraForSequenceClassification",
        lambda c, b: SequenceClassifier(b, FirstTokenHead(c.hidden_size, c.num_labels, gelu, classifier_rate(c))),
        FIRST_TOKEN,
    ),
    "MultipleChoice": Task(
        "ElectraForMultipleChoice",
        multiple_choice,
        KeyMap({"classifier.head.dense": "sequence_summary.summary", "classifier.head.out": "classifier"}),
        at="classifier.backbone",
    ),
    **token_tasks("Electra", electra),
    **text_encoding("Electra"),
}

register(
    Family(ElectraConfig, "ElectraModel", electra, ELECTRA_KEYS, "electra", TASKS, padded_tables("embeddings.embed"))
)
