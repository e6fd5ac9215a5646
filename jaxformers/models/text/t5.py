"""T5: RMSNorm before each branch, no biases, a relative position bias that all layers share; v1.1 gates and unties."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import CheckpointError, ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.classify import FirstTokenHead
from jaxformers.heads.seq2seq import EosClassifier, Seq2SeqLM, Seq2SeqSpan
from jaxformers.heads.tokens import TokenClassifier
from jaxformers.models import Family, Task, register
from jaxformers.models.tasks import lm_head, lm_keys
from jaxformers.models.text.encoder_decoder import check_eos
from jaxformers.nn.attention import Attention
from jaxformers.nn.clamp import HalfClamp
from jaxformers.nn.cross import OptionalCrossAttention
from jaxformers.nn.embed import Embed
from jaxformers.nn.mlp import GatedMlp, Mlp
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.param import Constant, Normal
from jaxformers.nn.relative import RelativeBias
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.seq2seq import CrossDecoder, Encoder, Seq2Seq, TokenStem
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class T5Config(Config):
    model_type: ClassVar[str] = "t5"
    aliases: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    is_encoder_decoder: bool = True
    use_cache: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | tuple | None = 1
    classifier_dropout: float = 0.0
    is_decoder: bool = False
    dense_act_fn: str | None = None
    is_gated_act: bool | None = None
    scale_decoder_outputs: bool | None = None
    tie_word_embeddings: bool = True  # False: the checkpoint holds a head of its own
    decoder_start_token_id: int | None = None

    def resolve(self) -> None:
        words = self.feed_forward_proj.split("-")
        gated = words[0] == "gated"
        if len(words) > 2 or len(words) == 2 and not gated:
            raise ConfigError(f"feed_forward_proj is {self.feed_forward_proj!r}; expected 'relu' or 'gated-gelu' alike")
        self.default("num_decoder_layers", self.num_layers)
        self.default("is_gated_act", gated)
        self.default("dense_act_fn", "gelu_new" if self.feed_forward_proj == "gated-gelu" else words[-1])
        # Files of transformers 4 say it in other words: those that untie the head do not scale.
        self.default("scale_decoder_outputs", self.tie_word_embeddings)

    def validate(self) -> None:
        exact = self.relative_attention_num_buckets // 4
        if exact < 1 or self.relative_attention_max_distance <= 2 * exact:
            raise ConfigError(
                f"relative_attention_num_buckets {self.relative_attention_num_buckets} needs to be at least 4, and "
                f"relative_attention_max_distance {self.relative_attention_max_distance} more than half of it"
            )


def block(c: Any, decodes: bool) -> Block:
    """One layer. Scores are not scaled: the initialisation does it."""
    common: dict[str, Any] = {
        "pre": RMSNorm(c.layer_norm_epsilon),
        "after": HalfClamp(),
        "dropout": c.dropout_rate,
    }
    heads, dim, rate = c.num_heads, c.d_kv, c.dropout_rate
    steps = [Residual("attn", Attention(heads, heads, dim, scale=1.0, dropout=rate), **common)]
    if decodes:
        steps.append(Residual("cross", OptionalCrossAttention(heads, dim, scale=1.0, dropout=rate), **common))
    act = activation(c.dense_act_fn)
    mlp = GatedMlp(c.d_ff, act, dropout=rate) if c.is_gated_act else Mlp(c.d_ff, act, bias=False, dropout=rate)
    return Block((*steps, Residual("mlp", mlp, **common)))


def side(c: Any, table: Embed, decodes: bool) -> Any:
    """The encoder or the decoder."""
    count = c.num_decoder_layers if decodes else c.num_layers
    return (CrossDecoder if decodes else Encoder)(
        table,
        Stack(Layers((block(c, decodes),) * count)),
        TokenStem(dropout=c.dropout_rate),
        RMSNorm(c.layer_norm_epsilon),
        RelativeBias(
            c.num_heads, c.relative_attention_num_buckets, c.relative_attention_max_distance, both_ways=not decodes
        ),
        c.dropout_rate,
    )


def t5(c: Any, start: int | None = None) -> Seq2Seq:
    """The base model; `start` begins decoder inputs that are made from input_ids."""
    shared = Embed(c.vocab_size, c.d_model)
    return Seq2Seq(shared, side(c, shared, False), side(c, shared, True), start, c.pad_token_id)


def t5_shifted(c: Any) -> Seq2Seq:
    """The base model of heads whose decoder reads the text again. Raises ConfigError without a start token."""
    return t5(c, c.decoder_start_token_id)


def t5_encoder(c: Any) -> Encoder:
    """The encoder alone. Raises ConfigError for one that is to decode."""
    if c.is_decoder:
        raise ConfigError("is_decoder=True makes transformers' T5 encoder decode, which is not implemented; remove it")
    return side(c, Embed(c.vocab_size, c.d_model), False)


def side_rules(theirs: str, ours: str) -> dict[str, str]:
    """Keys of one side; `ours` is where it sits in our tree, with its dot."""
    names = {"attn": (0, "SelfAttention"), "mlp": (1, "DenseReluDense")}
    if theirs == "decoder":
        names = {"attn": (0, "SelfAttention"), "cross": (1, "EncDecAttention"), "mlp": (2, "DenseReluDense")}
    out = {
        f"{ours}norm": f"{theirs}.final_layer_norm",
        f"{ours}bias.table": f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias",
    }
    for step, (n, name) in names.items():
        mine, layer = f"{ours}layers.{{i}}.{step}", f"{theirs}.block.{{i}}.layer.{n}"
        out[f"{mine}_pre"] = f"{layer}.layer_norm"
        leaves = {f"{p}_proj": p for p in "qkvo"}
        if step == "mlp":
            leaves = {"fc1": "wi", "fc2": "wo", "gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}
        out |= {f"{mine}.{a}": f"{layer}.{name}.{b}" for a, b in leaves.items()}
    return out


COPIES = Part("shared", also=("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"))
IGNORED = (
    r"^(en|de)coder\.embed_tokens\.",
    r"EncDecAttention\.relative_attention_bias\.",  # of the oldest checkpoints, read by nothing
    r"^(lm_head|qa_outputs|classifier|classification_head)\.",
)
T5_KEYS = KeyMap({"shared": COPIES, **side_rules("encoder", "encoder."), **side_rules("decoder", "decoder.")}, IGNORED)
ENCODER_KEYS = KeyMap({"embed": COPIES, **side_rules("encoder", "")}, (*IGNORED, r"^decoder\."))
CLASSIFIER = {"head.dense": "classification_head.dense", "head.out": "classification_head.out_proj"}


def adapt(c: Any, tensors: Mapping[str, Any]) -> Any:
    """Untie the head when the checkpoint has one that differs from the words' table, as transformers 5 does.

    Raises CheckpointError when the two sides have different tables.
    """
    words = tensors.get("shared.weight")
    if words is None:
        return c

    def differs(name: str) -> bool:
        return name in tensors and not np.array_equal(np.asarray(tensors[name]), np.asarray(words))

    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        if differs(name):
            raise CheckpointError(f"{name} differs from shared.weight; a T5 with two word tables is not supported")
    return c.replace(tie_word_embeddings=not differs("lm_head.weight"))


def init_scheme(c: Any) -> Mapping[str, Callable]:
    """Mesh TensorFlow's scheme: the width of what a product sums over sets its spread."""
    f = c.initializer_factor

    def normal(fan: float) -> Normal:
        return Normal(f * fan**-0.5)

    return {
        r"q_proj\.kernel$": normal(c.d_model * c.d_kv),
        r"o_proj\.kernel$": normal(c.num_heads * c.d_kv),
        r"(fc2|down_proj)\.kernel$": normal(c.d_ff),
        r"bias\.table\.embedding$": normal(c.d_model),
        r"(_pre|norm)\.scale$": Constant(f),
        r"(shared|embed)\.embedding$": Normal(f),
        # The language model's own head, and a classifier of tokens.
        r"^head\.kernel$": Normal(f),
        r"kernel$": normal(c.d_model),
    }


def answers(c: Any, b: nn.Module) -> Seq2SeqSpan:
    """Two scores for each token. Raises ConfigError for another number of labels, as transformers would."""
    if c.num_labels != 2:
        raise ConfigError(f"question answering needs num_labels=2, a start and an end; found {c.num_labels}")
    return Seq2SeqSpan(b)


LM = Task(
    "T5ForConditionalGeneration",
    lambda c, b: Seq2SeqLM(b, lm_head(c), scale=c.d_model**-0.5 if c.scale_decoder_outputs else 1.0),
    lm_keys(),
    prefix="",
)
TASKS = {
    "Seq2SeqLM": LM,
    "PreTraining": LM,
    "SequenceClassification": Task(
        "T5ForSequenceClassification",
        lambda c, b: EosClassifier(
            b, FirstTokenHead(c.d_model, c.num_labels, dropout=c.classifier_dropout), check_eos(c)
        ),
        KeyMap(CLASSIFIER),
        backbone=t5_shifted,
    ),
    "QuestionAnswering": Task(
        "T5ForQuestionAnswering", answers, KeyMap({"span": "qa_outputs"}), prefix="", backbone=t5_shifted
    ),
    "TokenClassification": Task(
        "T5ForTokenClassification",
        lambda c, b: TokenClassifier(b, c.num_labels, c.classifier_dropout),
        KeyMap({"head": "classifier"}),
        backbone=t5_encoder,
        backbone_keys=ENCODER_KEYS,
    ),
    "TextEncoding": Task(
        "T5EncoderModel", lambda c, b: b, at="", prefix="", backbone=t5_encoder, backbone_keys=ENCODER_KEYS
    ),
}

register(Family(T5Config, "T5Model", t5, T5_KEYS, "transformer", TASKS, init_scheme, adapt=adapt))
