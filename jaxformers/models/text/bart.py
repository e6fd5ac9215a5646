"""BART: norm after each branch, learned positions that start at row two, one word table for both sides."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.classify import FirstTokenHead
from jaxformers.heads.lm import CausalLM
from jaxformers.heads.seq2seq import EosClassifier, Seq2SeqLM, Seq2SeqSpan
from jaxformers.models import Family, Task, register
from jaxformers.models.tasks import lm_head, lm_keys
from jaxformers.models.text.encoder_decoder import (
    check_eos,
    check_heads,
    embedding_scale,
    init_scheme,
    layer_rules,
    layers,
    own_head,
    table_rules,
)
from jaxformers.nn.embed import Embed
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.offset import OffsetEmbed
from jaxformers.nn.seq2seq import CrossDecoder, Encoder, Seq2Seq, TokenStem

ALIASES = {
    "num_attention_heads": "encoder_attention_heads",
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
}


@dataclass(frozen=True, kw_only=True)
class BartConfig(Config):
    model_type: ClassVar[str] = "bart"
    aliases: ClassVar = ALIASES

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    encoder_layerdrop: float | None = 0.0
    decoder_layerdrop: float | None = 0.0
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    classifier_dropout: float = 0.0
    scale_embedding: bool | None = False
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | tuple | None = 2
    is_encoder_decoder: bool = True
    decoder_start_token_id: int | None = 2
    forced_eos_token_id: int | tuple | None = 2
    is_decoder: bool | None = False
    tie_word_embeddings: bool = True

    def resolve(self) -> None:
        if self.id2label is None:
            self._set("id2label", FrozenDict({i: f"LABEL_{i}" for i in range(3)}))
            self._set("label2id", FrozenDict({f"LABEL_{i}": i for i in range(3)}))

    def validate(self) -> None:
        check_heads(self)


def side(c: Any, name: str, table: Embed) -> Any:
    """The encoder or the decoder."""
    positions = OffsetEmbed(c.max_position_embeddings + 2, c.d_model, axes=(None, "embed"))
    stem = TokenStem(positions, LayerNorm(), c.dropout)
    kind = Encoder if name == "encoder" else CrossDecoder
    return kind(table, layers(c, name), stem, lookup_scale=embedding_scale(c))


def words(c: Any) -> Embed:
    """A table of words."""
    return Embed(c.vocab_size, c.d_model)


def bart(c: Any) -> Seq2Seq:
    """Untied models have a table for each side."""
    shared = words(c) if c.tie_word_embeddings else None
    encoder, decoder = side(c, "encoder", shared or words(c)), side(c, "decoder", shared or words(c))
    return Seq2Seq(shared, encoder, decoder, c.decoder_start_token_id, c.pad_token_id)


def bart_decoder(c: Any) -> CrossDecoder:
    """The decoder alone, as the causal language model uses it."""
    return side(c, "decoder", words(c))


def bart_keys(c: Any) -> KeyMap:
    """Keys of the base model."""
    rules = {
        **{f"{s}.stem.positions": f"{s}.embed_positions" for s in ("encoder", "decoder")},
        **{f"{s}.stem.norm": f"{s}.layernorm_embedding" for s in ("encoder", "decoder")},
        **layer_rules("encoder", "encoder.layers"),
        **layer_rules("decoder", "decoder.layers"),
    }
    return KeyMap(rules, ignore=(r"^(en|de)coder\.version$",)) | table_rules(c.tie_word_embeddings)


DECODER_KEYS = KeyMap(
    {
        "embed": Part("decoder.embed_tokens", also=("shared",)),
        "stem.positions": "decoder.embed_positions",
        "stem.norm": "decoder.layernorm_embedding",
        **layer_rules("decoder", "layers"),
    },
    ignore=(r"^encoder\.", r"^shared\.", r"^decoder\.version$"),
)


def word_keys(c: Any) -> KeyMap:
    """The language-model head and its bias."""
    return lm_keys()(c) | KeyMap({"bias": Part("final_logits_bias", exact=True)})


def word_head(c: Any, b: nn.Module) -> Seq2SeqLM:
    return Seq2SeqLM(b, own_head(c, c.vocab_size), bias=c.vocab_size)


LM = Task("BartForConditionalGeneration", word_head, word_keys)
TASKS = {
    "Seq2SeqLM": LM,
    "PreTraining": LM,
    "MaskedLM": LM,
    "CausalLM": Task(
        "BartForCausalLM",
        lambda c, b: CausalLM(b, lm_head(c)),
        lm_keys(),
        backbone=bart_decoder,
        backbone_keys=DECODER_KEYS,
    ),
    "SequenceClassification": Task(
        "BartForSequenceClassification",
        lambda c, b: EosClassifier(
            b, FirstTokenHead(c.d_model, c.num_labels, dropout=c.classifier_dropout), check_eos(c)
        ),
        KeyMap({"head.dense": "classification_head.dense", "head.out": "classification_head.out_proj"}),
    ),
    "QuestionAnswering": Task("BartForQuestionAnswering", lambda c, b: Seq2SeqSpan(b), KeyMap({"span": "qa_outputs"})),
}

# Base checkpoints lack the bias of the words, which starts at zero and stays there.
register(Family(BartConfig, "BartModel", bart, bart_keys, "model", TASKS, init_scheme, constants=(r"^bias$",)))
