"""Marian: BART's layers without the norm after the embedding, positions of sines, one vocabulary or two."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.lm import CausalLM
from jaxformers.heads.seq2seq import Seq2SeqLM
from jaxformers.models import Family, Task, register
from jaxformers.models.tasks import lm_head, lm_keys
from jaxformers.models.text.encoder_decoder import (
    SIDES,
    check_heads,
    embedding_scale,
    init_scheme,
    layer_rules,
    layers,
    own_head,
    table_rules,
)
from jaxformers.nn.embed import Embed
from jaxformers.nn.seq2seq import CrossDecoder, Encoder, Seq2Seq, TokenStem
from jaxformers.nn.sinusoids import FixedPositions, StoredPositions, paired_sinusoids


@dataclass(frozen=True, kw_only=True)
class MarianConfig(Config):
    model_type: ClassVar[str] = "marian"
    aliases: ClassVar = {
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 58101
    decoder_vocab_size: int | None = None
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    use_cache: bool = True
    is_encoder_decoder: bool = True
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    decoder_start_token_id: int | None = 58100
    scale_embedding: bool = False
    pad_token_id: int | None = 58100
    eos_token_id: int | tuple | None = 0
    bos_token_id: int | None = None
    forced_eos_token_id: int | tuple | None = 0
    share_encoder_decoder_embeddings: bool = True
    is_decoder: bool = False
    tie_word_embeddings: bool = True

    def resolve(self) -> None:
        self._set("decoder_vocab_size", self.decoder_vocab_size or self.vocab_size)

    def validate(self) -> None:
        check_heads(self)

    @property
    def one_table(self) -> bool:
        """Whether both sides look words up in the same table."""
        return self.share_encoder_decoder_embeddings and self.tie_word_embeddings


def stored(c: Any) -> nn.Module:
    """Positions as base models and decoders alone store them."""
    return StoredPositions(c.max_position_embeddings, c.d_model, paired_sinusoids)


def fixed(c: Any) -> nn.Module:
    """Positions as translation models have them, which leave them out of the file."""
    return FixedPositions(c.max_position_embeddings, c.d_model, paired_sinusoids)


def marian_decoder(c: Any, table: Embed | None = None, positions: Any = stored) -> CrossDecoder:
    """The decoder scales every embedding, given ones too; the encoder scales those it looks up."""
    table = Embed(c.decoder_vocab_size, c.d_model) if table is None else table
    return CrossDecoder(table, layers(c, "decoder"), TokenStem(positions(c), None, c.dropout, embedding_scale(c)))


def marian(c: Any, positions: Any = stored) -> Seq2Seq:
    """One word table for both sides, or one each."""
    shared = Embed(c.vocab_size, c.d_model) if c.one_table else None
    table = Embed(c.vocab_size, c.d_model) if shared is None else shared
    stem = TokenStem(positions(c), None, c.dropout)
    encoder = Encoder(table, layers(c, "encoder"), stem, lookup_scale=embedding_scale(c))
    return Seq2Seq(shared, encoder, marian_decoder(c, shared, positions))


def translator(c: Any) -> Seq2Seq:
    """The base model of the translation model."""
    return marian(c, fixed)


POSITIONS = {f"{s}.stem.positions.table": Part(f"{s}.embed_positions.weight", exact=True) for s in SIDES}


def marian_keys(c: Any) -> KeyMap:
    """Keys of the base model."""
    sides = {**layer_rules("encoder", "encoder.layers"), **layer_rules("decoder", "decoder.layers")}
    return KeyMap({**POSITIONS, **sides}) | table_rules(c.one_table)


def translator_keys(c: Any) -> KeyMap:
    """The same without positions; files that hold them hold the sines all the same."""
    return KeyMap(ignore=tuple(rf"^{s}\.embed_positions\." for s in SIDES)) | marian_keys(c)


DECODER_KEYS = KeyMap(
    {
        "embed": Part("decoder.embed_tokens", also=("shared",)),
        "stem.positions.table": Part("decoder.embed_positions.weight", exact=True),
        **layer_rules("decoder", "layers"),
    },
    ignore=(r"^encoder\.", r"^shared\."),
)


def target_words(c: Any) -> int:
    """Words of the language the translation model writes."""
    return c.vocab_size if c.share_encoder_decoder_embeddings else c.decoder_vocab_size


def word_keys(c: Any) -> KeyMap:
    """The language-model head and its bias."""
    return lm_keys()(c) | KeyMap({"bias": Part("final_logits_bias", exact=True)})


TASKS = {
    "Seq2SeqLM": Task(
        "MarianMTModel",
        lambda c, b: Seq2SeqLM(b, own_head(c, target_words(c)), bias=target_words(c)),
        word_keys,
        backbone=translator,
        backbone_keys=translator_keys,
    ),
    "CausalLM": Task(
        "MarianForCausalLM",
        lambda c, b: CausalLM(b, lm_head(c)),
        lm_keys(),
        backbone=marian_decoder,
        backbone_keys=DECODER_KEYS,
    ),
}

register(
    Family(
        MarianConfig,
        "MarianModel",
        marian,
        marian_keys,
        "model",
        TASKS,
        init_scheme,
        constants=(r"^bias$", r"positions\.table$"),
    )
)
