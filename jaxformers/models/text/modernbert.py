"""ModernBERT: pre-norm, rotary positions, gated feed-forwards; most layers look only some tokens to either side."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict, thaw
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.classify import MultipleChoice, PooledClassifier
from jaxformers.heads.lm import MaskedHead, MaskedLM
from jaxformers.heads.tokens import SpanFinder, TokenClassifier
from jaxformers.heads.transform import (
    Transform,
    TransformedPool,
    TransformedTokens,
    first_real_token,
    first_token,
    mean_real_token,
)
from jaxformers.models import Family, Task, register
from jaxformers.models.text.encoder_tasks import masked_keys
from jaxformers.models.text.parts import rope
from jaxformers.nn.attention import Attention
from jaxformers.nn.embed import Embed
from jaxformers.nn.encoder import TextEmbeddings, TextEncoder
from jaxformers.nn.local import LocalAttention
from jaxformers.nn.mlp import GatedMlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import TruncatedNormal
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation

FULL, LOCAL = "full_attention", "sliding_attention"
THETAS = {FULL: 160_000.0, LOCAL: 10_000.0}
OLD_THETAS = {"global_rope_theta": FULL, "local_rope_theta": LOCAL}


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(Config):
    model_type: ClassVar[str] = "modernbert"

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    initializer_cutoff_factor: float | None = 2.0
    norm_eps: float = 1e-5
    norm_bias: bool = False
    pad_token_id: int | None = 50283
    eos_token_id: int | tuple | None = 50282
    bos_token_id: int | None = 50281
    cls_token_id: int | None = 50281
    sep_token_id: int | None = 50282
    attention_bias: bool = False
    attention_dropout: float = 0.0
    layer_types: tuple | None = None
    rope_parameters: FrozenDict | None = None
    local_attention: int = 128
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    decoder_bias: bool = True
    classifier_pooling: str = "cls"
    classifier_dropout: float = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    deterministic_flash_attn: bool = False
    sparse_prediction: bool = False
    sparse_pred_ignore_index: int = -100
    tie_word_embeddings: bool = True

    @classmethod
    def upgrade(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Read transformers 4's every-n-layers pattern and its two rotary bases."""
        every = raw.pop("global_attn_every_n_layers", None)
        if raw.get("layer_types") is None and every is not None:
            raw["layer_types"] = layer_pattern(raw.get("num_hidden_layers", cls.num_hidden_layers), every)
        if raw.get("sliding_window") is not None:
            raw["local_attention"] = 2 * raw["sliding_window"]
        raw.pop("sliding_window", None)
        ropes = {k: dict(v) if isinstance(v, Mapping) else v for k, v in (raw.get("rope_parameters") or {}).items()}
        scaling = raw.pop("rope_scaling", None) or {}
        thetas = {kind: raw.pop(old, None) for old, kind in OLD_THETAS.items()}
        for kind, theta in thetas.items():
            entry = {**(ropes.get(kind) or {}), **scaling}
            if theta is not None:
                entry.setdefault("rope_theta", theta)
            ropes[kind] = entry
        return {**raw, "rope_parameters": ropes}

    def downgrade(self, written: dict[str, Any]) -> dict[str, Any]:
        """Add transformers 4's names, where it has any for this pattern."""
        for old, kind in OLD_THETAS.items():
            written[old] = written["rope_parameters"][kind]["rope_theta"]
        count = self.num_hidden_layers
        every = next((n for n in range(1, count + 1) if layer_pattern(count, n) == list(self.layer_types or ())), None)
        return written if every is None else {**written, "global_attn_every_n_layers": every}

    def resolve(self) -> None:
        self.default("layer_types", tuple(layer_pattern(self.num_hidden_layers, 3)))
        given = thaw(self.rope_parameters or {})
        filled = {kind: {"rope_theta": theta, **(given.get(kind) or {})} for kind, theta in THETAS.items()}
        self._set("rope_parameters", FrozenDict({**given, **filled}))

    def validate(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        kinds = self.layer_types or ()
        if len(kinds) != self.num_hidden_layers or set(kinds) - set(THETAS):
            raise ConfigError(
                f"layer_types is {list(kinds)}; expected {self.num_hidden_layers} names, each {FULL} or {LOCAL}"
            )
        if self.classifier_pooling not in ("cls", "mean"):
            raise ConfigError(f"classifier_pooling is {self.classifier_pooling!r}; expected 'cls' or 'mean'")


def layer_pattern(count: int, every: int) -> list[str]:
    """Every n-th layer sees the whole text, from the first on."""
    return [LOCAL if i % every else FULL for i in range(count)]


def attention(c: ModernBertConfig, kind: str) -> Attention:
    """Attention of one kind of layer."""
    heads, dim = c.num_attention_heads, c.hidden_size // c.num_attention_heads
    # The whole head turns, whatever partial_rotary_factor says.
    entry = {k: v for k, v in c.rope_parameters[kind].items() if k != "partial_rotary_factor"}
    fields = dict(
        heads=heads,
        kv_heads=heads,
        head_dim=dim,
        rope=rope(c, entry, dim=dim),
        qkv_bias=c.attention_bias,
        out_bias=c.attention_bias,
        dropout=c.attention_dropout,
    )
    return Attention(**fields) if kind == FULL else LocalAttention(**fields, distance=c.local_attention // 2)


def modernbert(c: ModernBertConfig) -> TextEncoder:
    norm = LayerNorm(c.norm_eps, c.norm_bias)
    mlp = GatedMlp(c.intermediate_size, activation(c.hidden_activation), c.mlp_bias, c.mlp_dropout)

    def block(i: int) -> Block:
        attn = attention(c, c.layer_types[i])
        # The embeddings come normed, so the first layer does not norm again.
        pre = None if i == 0 else norm
        return Block((Residual("attn", attn, pre=pre, dropout=c.attention_dropout), Residual("mlp", mlp, pre=norm)))

    embeddings = TextEmbeddings(
        Embed(c.vocab_size, c.hidden_size), norm=LayerNorm(c.norm_eps, c.norm_bias), dropout=c.embedding_dropout
    )
    layers = Layers(tuple(block(i) for i in range(c.num_hidden_layers)))
    return TextEncoder(embeddings, Stack(layers), norm=LayerNorm(c.norm_eps, c.norm_bias))


def modernbert_keys(c: ModernBertConfig) -> KeyMap:
    """Queries, keys and values lie in one tensor, as do gate and up."""
    layer = "layers.{i}."
    return KeyMap(
        {
            "embeddings.embed": "embeddings.tok_embeddings",
            "embeddings.norm": "embeddings.norm",
            layer + "attn_pre": layer + "attn_norm",
            **{f"{layer}attn.{p}_proj": Part(layer + "attn.Wqkv", (3, c.hidden_size), n) for n, p in enumerate("qkv")},
            layer + "attn.o_proj": layer + "attn.Wo",
            layer + "mlp_pre": layer + "mlp_norm",
            layer + "mlp.gate_proj": Part(layer + "mlp.Wi", (2, c.intermediate_size), 0),
            layer + "mlp.up_proj": Part(layer + "mlp.Wi", (2, c.intermediate_size), 1),
            layer + "mlp.down_proj": layer + "mlp.Wo",
            "norm": "final_norm",
        }
    )


def masked_lm(c: ModernBertConfig, backbone: TextEncoder) -> MaskedLM:
    """dense, activation, norm, then the word table; biases as the config says."""
    head = MaskedHead(
        c.hidden_size,
        c.vocab_size,
        activation(c.classifier_activation),
        LayerNorm(c.norm_eps, c.norm_bias),
        c.tie_word_embeddings,
        c.decoder_bias,
        c.classifier_bias,
    )
    return MaskedLM(backbone, head)


def transform(c: ModernBertConfig) -> Transform:
    """What stands before every classifier."""
    norm = LayerNorm(c.norm_eps, c.norm_bias)
    return Transform(c.hidden_size, activation(c.classifier_activation), norm, c.classifier_bias)


def tokens(c: ModernBertConfig, backbone: TextEncoder) -> TransformedTokens:
    """The backbone for heads on single tokens."""
    return TransformedTokens(backbone, transform(c))


def pooled(c: ModernBertConfig, backbone: TextEncoder, first: Callable) -> TransformedPool:
    """The backbone for heads on whole texts; `first` is what they take for the first token."""
    return TransformedPool(backbone, transform(c), first if c.classifier_pooling == "cls" else mean_real_token)


def classifier_keys(at: str) -> KeyMap:
    """The transform and the classifier of a head at `at` ("" for the root)."""
    return KeyMap({f"{at}backbone.transform.{{*}}": "head.{*}", f"{at}head": "classifier"})


def head(name: str, build: Callable[[Any, nn.Module], nn.Module]) -> Task:
    """A head whose backbone carries the transform."""
    return Task(f"ModernBertFor{name}", build, classifier_keys(""), at="backbone.backbone")


def init(c: ModernBertConfig) -> Mapping[str, Callable]:
    """Truncated normal values, narrower where a branch or a head ends."""
    cutoff = 3.0 if c.initializer_cutoff_factor is None else c.initializer_cutoff_factor
    out = TruncatedNormal(c.initializer_range / math.sqrt(2.0 * c.num_hidden_layers), cutoff)
    return {
        r"(o_proj|down_proj|dense|decoder)\.kernel$": out,
        r"(^|\.)head\.kernel$": TruncatedNormal(c.hidden_size**-0.5, cutoff),
        r"(kernel|embedding)$": TruncatedNormal(c.initializer_range, cutoff),
    }


TASKS = {
    "MaskedLM": Task("ModernBertForMaskedLM", masked_lm, masked_keys("head.dense", "head.norm", "decoder", "decoder")),
    "SequenceClassification": head(
        "SequenceClassification",
        lambda c, b: PooledClassifier(pooled(c, b, first_token), c.num_labels, c.classifier_dropout),
    ),
    "TokenClassification": head(
        "TokenClassification", lambda c, b: TokenClassifier(tokens(c, b), c.num_labels, c.classifier_dropout)
    ),
    "QuestionAnswering": head("QuestionAnswering", lambda c, b: SpanFinder(tokens(c, b), c.classifier_dropout)),
    "MultipleChoice": Task(
        "ModernBertForMultipleChoice",
        lambda c, b: MultipleChoice(PooledClassifier(pooled(c, b, first_real_token), 1, c.classifier_dropout)),
        classifier_keys("classifier."),
        at="classifier.backbone.backbone",
    ),
}

register(Family(ModernBertConfig, "ModernBertModel", modernbert, modernbert_keys, "model", TASKS, init))
