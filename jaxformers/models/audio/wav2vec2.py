"""wav2vec 2.0: raw samples through convolutions to frames, and a stack whose positions come from a convolution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.models import Family, register
from jaxformers.models.audio.wav2vec2_tasks import TASKS
from jaxformers.nn.attention import Attention
from jaxformers.nn.conv1d import Conv1d
from jaxformers.nn.fans import KaimingNormal, TorchUniform, UnitUniform
from jaxformers.nn.layerdrop import LayerDropBlock
from jaxformers.nn.linear import Linear
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import Normal
from jaxformers.nn.patch import Token
from jaxformers.nn.residual import Residual
from jaxformers.nn.spec_augment import Spans, SpecAugment
from jaxformers.nn.stack import Layers, Stack
from jaxformers.nn.wave_encoder import WaveEncoder
from jaxformers.nn.waves import ConvPositions, FrameAdapter, FrameProjection, TimeNorm, WaveBlock, WaveStem
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config(Config):
    model_type: ClassVar[str] = "wav2vec2"

    vocab_size: int | None = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    feat_quantizer_dropout: float = 0.0
    final_dropout: float = 0.1
    layerdrop: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: tuple = (512, 512, 512, 512, 512, 512, 512)
    conv_stride: tuple = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    contrastive_logits_temperature: float = 0.1
    num_negatives: int = 100
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    diversity_loss_weight: float = 0.1
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    tdnn_dim: tuple = (512, 512, 512, 512, 1500)
    tdnn_kernel: tuple = (5, 3, 3, 1, 1)
    tdnn_dilation: tuple = (1, 2, 3, 1, 1)
    xvector_output_dim: int = 512
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | tuple | None = 2
    add_adapter: bool = False
    adapter_kernel_size: int = 3
    adapter_stride: int = 2
    num_adapter_layers: int = 3
    output_hidden_size: int | None = None
    adapter_attn_dim: int | None = None
    num_feat_extract_layers: int | None = None

    def resolve(self) -> None:
        self._set("output_hidden_size", self.output_hidden_size or self.hidden_size)
        self._set("num_feat_extract_layers", len(self.conv_dim))

    def validate(self) -> None:
        if not len(self.conv_dim) == len(self.conv_stride) == len(self.conv_kernel):
            raise ConfigError(
                f"conv_dim, conv_stride and conv_kernel have {len(self.conv_dim)}, {len(self.conv_stride)} and "
                f"{len(self.conv_kernel)} entries; expected one of each for every convolution"
            )
        if self.feat_extract_norm not in ("group", "layer"):
            raise ConfigError(f"feat_extract_norm is {self.feat_extract_norm!r}; expected 'group' or 'layer'")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )


def wave_stem(c: Any) -> WaveStem:
    """The convolutions over samples; only the first is normed over time, or each over its channels."""
    act = activation(c.feat_extract_activation)
    norms: list[nn.Module | None] = [LayerNorm() for _ in c.conv_dim]
    if c.feat_extract_norm == "group":
        norms = [TimeNorm(), *[None] * (len(c.conv_dim) - 1)]
    convs = [Conv1d(*sizes, bias=c.conv_bias) for sizes in zip(c.conv_dim, c.conv_kernel, c.conv_stride, strict=True)]
    return WaveStem(tuple(WaveBlock(conv, act, norm) for conv, norm in zip(convs, norms, strict=True)))


def wave_block(c: Any) -> LayerDropBlock:
    """One layer: norms after each sum, or before each branch when do_stable_layer_norm."""
    norm, heads = LayerNorm(c.layer_norm_eps), c.num_attention_heads
    dim = c.hidden_size // heads
    place = {"pre" if c.do_stable_layer_norm else "after": norm, "dropout": c.hidden_dropout}
    attn = Attention(heads, heads, dim, qkv_bias=True, out_bias=True, dropout=c.attention_dropout)
    mlp = Mlp(c.intermediate_size, activation(c.hidden_act), dropout=c.activation_dropout)
    steps = [Residual("attn", attn, **place), Residual("mlp", mlp, **place)]
    if c.do_stable_layer_norm and c.adapter_attn_dim is not None:
        steps.append(Residual("adapter", Mlp(c.adapter_attn_dim, jax.nn.relu), pre=LayerNorm()))
    return LayerDropBlock(tuple(steps), rate=c.layerdrop)


def frame_adapter(c: Any) -> FrameAdapter:
    """The convolutions that shorten the output."""
    width = c.output_hidden_size
    convs = tuple(
        Conv1d(2 * width, c.adapter_kernel_size, c.adapter_stride, padding=1) for _ in range(c.num_adapter_layers)
    )
    if width == c.hidden_size:
        return FrameAdapter(convs)
    return FrameAdapter(convs, Linear(width, True, ("embed", None)), LayerNorm())


def wav2vec2(c: Any) -> WaveEncoder:
    norm = LayerNorm(c.layer_norm_eps)
    time = Spans(c.mask_time_prob, c.mask_time_length, c.mask_time_min_masks)
    features = Spans(c.mask_feature_prob, c.mask_feature_length, c.mask_feature_min_masks)
    act = activation(c.feat_extract_activation)
    return WaveEncoder(
        wave_stem(c),
        FrameProjection(LayerNorm(c.layer_norm_eps), Linear(c.hidden_size, True, (None, "embed")), c.feat_proj_dropout),
        ConvPositions(c.num_conv_pos_embeddings, c.num_conv_pos_embedding_groups, act),
        Stack(Layers((wave_block(c),) * c.num_hidden_layers)),
        pre=None if c.do_stable_layer_norm else norm,
        post=norm if c.do_stable_layer_norm else None,
        mask=Token(c.hidden_size, rank=1) if c.mask_time_prob > 0 or c.mask_feature_prob > 0 else None,
        adapter=frame_adapter(c) if c.add_adapter else None,
        augment=SpecAugment(time, features) if c.apply_spec_augment else None,
        dropout=c.hidden_dropout,
        layerdrop=c.layerdrop > 0,
    )


LAYER, CONV = "encoder.layers.{i}.", "encoder.pos_conv_embed.conv."


def weight_norm(new: str, old: str) -> Part:
    """A weight-normed tensor: under its name in PyTorch 2's files, or in older ones."""
    return Part(f"{CONV}parametrizations.weight.{new}", also=(f"{CONV}{old}",), exact=True)


def wav2vec2_keys(c: Any) -> KeyMap:
    """The key table; the norms of layers and encoder keep their names wherever they stand."""
    slot, end = ("pre", "post") if c.do_stable_layer_norm else ("after", "pre")
    return KeyMap(
        {
            "stem.blocks_{i}.norm": "feature_extractor.conv_layers.{i}.layer_norm",
            "stem.blocks_{i}.{*}": "feature_extractor.conv_layers.{i}.{*}",
            "project.norm": "feature_projection.layer_norm",
            "project.project": "feature_projection.projection",
            "mask.token": Part("masked_spec_embed", exact=True),
            "positions.kernel": weight_norm("original1", "weight_v"),
            "positions.gain": weight_norm("original0", "weight_g"),
            "positions.bias": Part(CONV + "bias", exact=True),
            end: "encoder.layer_norm",
            f"layers.{{i}}.attn_{slot}": LAYER + "layer_norm",
            "layers.{i}.attn.o_proj": LAYER + "attention.out_proj",
            "layers.{i}.attn.{*}": LAYER + "attention.{*}",
            f"layers.{{i}}.mlp_{slot}": LAYER + "final_layer_norm",
            "layers.{i}.mlp.fc1": LAYER + "feed_forward.intermediate_dense",
            "layers.{i}.mlp.fc2": LAYER + "feed_forward.output_dense",
            "layers.{i}.adapter_pre": LAYER + "adapter_layer.norm",
            "layers.{i}.adapter.fc1": LAYER + "adapter_layer.linear_1",
            "layers.{i}.adapter.fc2": LAYER + "adapter_layer.linear_2",
            "adapter.project": "adapter.proj",
            "adapter.norm": "adapter.proj_layer_norm",
            "adapter.convs_{i}": "adapter.layers.{i}.conv",
        }
    )


def wav2vec2_init(c: Any) -> dict[str, Callable]:
    """The schemes of convolutions, projections and codes; the position kernel keeps its module's own."""
    rules: dict[str, Callable] = {
        r"positions\.kernel$": TorchUniform(
            c.num_conv_pos_embeddings * (c.hidden_size // c.num_conv_pos_embedding_groups)
        ),
        r"(blocks_\d+\.conv|adapter\.convs_\d+)\.kernel$": KaimingNormal(),
        r"project\.project\.(kernel|bias)$": TorchUniform(c.conv_dim[-1]),
        r"adapter\.convs_\d+\.bias$": TorchUniform(c.output_hidden_size * c.adapter_kernel_size),
        r"mask\.token$": UnitUniform(),
        r"quantizer\.scores\.kernel$": Normal(1.0),
        r"^states\.(kernel|bias)$": TorchUniform(c.hidden_size),
        r"^codes\.(kernel|bias)$": TorchUniform(c.codevector_dim),
    }
    if c.conv_bias:
        for n, (inner, width) in enumerate(zip((1, *c.conv_dim), c.conv_kernel, strict=False)):
            rules[rf"blocks_{n}\.conv\.bias$"] = TorchUniform(inner * width)
    return rules


# Checkpoints tuned without hiding lack the vector; evaluation never reads it.
FRESH = (r"(^|\.)mask\.token$",)
register(
    Family(Wav2Vec2Config, "Wav2Vec2Model", wav2vec2, wav2vec2_keys, "wav2vec2", TASKS, wav2vec2_init, constants=FRESH)
)
