"""Whisper: convolutions over mel features, norm before each branch, keys without a bias, stored sines."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.lm import CausalLM
from jaxformers.heads.seq2seq import Seq2SeqLM
from jaxformers.heads.speech import RecordingClassifier
from jaxformers.models import Family, Task, register
from jaxformers.models.tasks import lm_head, lm_keys
from jaxformers.models.text.encoder_decoder import check_heads, init_scheme, layer_rules, layers
from jaxformers.nn.clamp import HalfClamp
from jaxformers.nn.embed import Embed
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.seq2seq import CrossDecoder, TokenStem
from jaxformers.nn.sinusoids import StoredPositions, spread_sinusoids
from jaxformers.nn.speech import KeyUnbiasedAttention, MelStem, SpeechEncoder, SpeechSeq2Seq


@dataclass(frozen=True, kw_only=True)
class WhisperConfig(Config):
    model_type: ClassVar[str] = "whisper"
    aliases: ClassVar = {
        "num_key_value_heads": "encoder_attention_heads",
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 51865
    num_mel_bins: int = 80
    encoder_layers: int = 4
    encoder_attention_heads: int = 6
    decoder_layers: int = 4
    decoder_attention_heads: int = 6
    decoder_ffn_dim: int = 1536
    encoder_ffn_dim: int = 1536
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    decoder_start_token_id: int | None = 50257
    use_cache: bool = True
    is_encoder_decoder: bool = True
    activation_function: str = "gelu"
    d_model: int = 384
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False  # read, and used by nothing: so it is in transformers
    max_source_positions: int = 1500
    max_target_positions: int = 448
    pad_token_id: int | None = 50256
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple | None = 50256
    suppress_tokens: tuple | None = None
    begin_suppress_tokens: tuple | None = (220, 50256)
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    apply_spec_augment: bool = False
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    median_filter_width: int = 7
    tie_word_embeddings: bool = True

    def validate(self) -> None:
        check_heads(self)
        if self.d_model % 2 or self.d_model < 4:
            raise ConfigError(
                f"d_model is {self.d_model}; positions of sines and cosines need an even width, 4 or more"
            )


def whisper_encoder(c: Any) -> SpeechEncoder:
    """The encoder alone, as the classifier of recordings uses it."""
    stem = TokenStem(StoredPositions(c.max_source_positions, c.d_model, spread_sinusoids), None, c.dropout)
    mel = MelStem(c.num_mel_bins, c.max_source_positions, c.d_model)
    return SpeechEncoder(
        mel, layers(c, "encoder", "pre", KeyUnbiasedAttention, HalfClamp(always=True)), stem, LayerNorm()
    )


def whisper_decoder(c: Any, source_length: int = 0) -> CrossDecoder:
    """The decoder alone, as the causal language model uses it."""
    stem = TokenStem(Embed(c.max_target_positions, c.d_model, axes=(None, "embed")), None, c.dropout)
    stack = layers(c, "decoder", "pre", KeyUnbiasedAttention)
    return CrossDecoder(Embed(c.vocab_size, c.d_model), stack, stem, LayerNorm(), source_length=source_length)


def whisper(c: Any) -> SpeechSeq2Seq:
    """SpecAugment matters in training only, and only when a probability is set."""
    augment = c.apply_spec_augment and (c.mask_time_prob > 0 or c.mask_feature_prob > 0)
    return SpeechSeq2Seq(None, whisper_encoder(c), whisper_decoder(c, c.max_source_positions), augment=augment)


def encoder_rules(ours: str) -> dict[str, str | Part]:
    """Keys of the encoder; `ours` is where it sits in our tree, with its dot."""
    return {
        f"{ours}embed.conv1": "encoder.conv1",
        f"{ours}embed.conv2": "encoder.conv2",
        f"{ours}stem.positions.table": Part("encoder.embed_positions.weight", exact=True),
        f"{ours}norm": "encoder.layer_norm",
        **layer_rules("encoder", f"{ours}layers", "pre"),
    }


def decoder_rules(ours: str) -> dict[str, str | Part]:
    """Keys of the decoder."""
    return {
        f"{ours}embed": "decoder.embed_tokens",
        f"{ours}stem.positions": "decoder.embed_positions",
        f"{ours}norm": "decoder.layer_norm",
        **layer_rules("decoder", f"{ours}layers", "pre"),
    }


KEYS = KeyMap({**encoder_rules("encoder."), **decoder_rules("decoder.")})
ENCODER_KEYS = KeyMap(encoder_rules(""), ignore=(r"^decoder\.", r"^proj_out\."))
DECODER_KEYS = KeyMap(decoder_rules(""), ignore=(r"^encoder\.",))
CLASSIFIER = KeyMap(
    {
        "projector": "projector",
        "classifier": "classifier",
        "layer_weights": Part("layer_weights", exact=True),
    }
)


def classifier(c: Any, b: nn.Module) -> RecordingClassifier:
    averaged = c.encoder_layers + 1 if c.use_weighted_layer_sum else 0
    return RecordingClassifier(b, c.num_labels, c.classifier_proj_size, averaged)


TASKS = {
    "SpeechSeq2Seq": Task(
        "WhisperForConditionalGeneration", lambda c, b: Seq2SeqLM(b, lm_head(c)), lm_keys("proj_out")
    ),
    "CausalLM": Task(
        "WhisperForCausalLM",
        lambda c, b: CausalLM(b, lm_head(c)),
        lm_keys("proj_out"),
        backbone=whisper_decoder,
        backbone_keys=DECODER_KEYS,
    ),
    "AudioClassification": Task(
        "WhisperForAudioClassification",
        classifier,
        CLASSIFIER,
        prefix="",
        backbone=whisper_encoder,
        backbone_keys=ENCODER_KEYS,
    ),
}

register(Family(WhisperConfig, "WhisperModel", whisper, KEYS, "model", TASKS, init_scheme))
