"""DETR: a convolutional backbone, an encoder over its places, and queries that become objects.

Positions are added to queries and keys in every layer. With auxiliary_loss the decoder's norm also follows each layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.detect import Boxes, MaskHead, ObjectDetector
from jaxformers.heads.vision import FeatureMaps
from jaxformers.models import Family, Task, blueprint, read_config, register
from jaxformers.models.vision import resnet
from jaxformers.models.vision.timm import TimmBackboneConfig, timm_keys
from jaxformers.nn.conv import FanOut, KaimingUniform, ScaledXavier
from jaxformers.nn.embed import Embed
from jaxformers.nn.fans import UnitUniform
from jaxformers.nn.grid_positions import LearnedGrid, SineGrid
from jaxformers.nn.linear import Linear
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import Normal
from jaxformers.nn.patch import PatchEmbed
from jaxformers.nn.placed import PlacedAttention, PlacedCrossAttention
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.set_predictor import LayerByLayer, QueryDecoder, SetPredictor
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation

BACKBONES = ("resnet", "convnext", "timm_backbone")


def read_backbone(raw: Mapping[str, Any]) -> Config:
    """Read backbone_config. Raises ConfigError for a type that cannot serve."""
    kind = raw.get("model_type")
    if kind not in BACKBONES:
        raise ConfigError(f"backbone_config is of type {kind!r}; DETR in jaxformers takes {', '.join(BACKBONES)}")
    return TimmBackboneConfig.from_json(raw) if kind == "timm_backbone" else read_config(raw)


@dataclass(frozen=True, kw_only=True)
class DetrConfig(Config):
    model_type: ClassVar[str] = "detr"
    aliases: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }
    subconfigs: ClassVar[dict[str, Any]] = {"backbone_config": read_backbone}

    backbone_config: Config | Mapping | None = None
    num_channels: int = 3
    num_queries: int = 100
    encoder_layers: int = 6
    encoder_ffn_dim: int = 2048
    encoder_attention_heads: int = 8
    decoder_layers: int = 6
    decoder_ffn_dim: int = 2048
    decoder_attention_heads: int = 8
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    is_encoder_decoder: bool = True
    activation_function: str = "relu"
    d_model: int = 256
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    init_xavier_std: float = 1.0
    auxiliary_loss: bool = False
    position_embedding_type: str = "sine"
    dilation: bool = False
    class_cost: float = 1
    bbox_cost: float = 5
    giou_cost: float = 2
    mask_loss_coefficient: float = 1
    dice_loss_coefficient: float = 1
    bbox_loss_coefficient: float = 5
    giou_loss_coefficient: float = 2
    eos_coefficient: float = 0.1

    @classmethod
    def upgrade(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """transformers 4 named a backbone of timm beside the config instead of in it."""
        raw = dict(raw)
        name, options = raw.pop("backbone", None), raw.pop("backbone_kwargs", None) or {}
        use_timm = raw.pop("use_timm_backbone", True)
        pretrained = raw.pop("use_pretrained_backbone", None)
        if raw.get("backbone_config") is None:
            if use_timm:
                raw["backbone_config"] = old_timm(raw, name, options)
            elif name is None:
                raw["backbone_config"] = {"model_type": "resnet", "out_features": ["stage4"]}
            else:
                raise ConfigError(f"backbone {name!r} is only named; put its config into backbone_config instead")
        elif pretrained is not None:
            raw["use_pretrained_backbone"] = pretrained
        return raw

    def resolve(self) -> None:
        if self.backbone_config is None:
            self._set("backbone_config", read_backbone(old_timm({"dilation": self.dilation}, None, {})))

    def validate(self) -> None:
        if self.position_embedding_type not in ("sine", "learned"):
            raise ConfigError(f"position_embedding_type is {self.position_embedding_type!r}; expected sine or learned")


def old_timm(raw: Mapping[str, Any], name: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone_config that transformers 5 makes of transformers 4's keys."""
    out = {
        "model_type": "timm_backbone",
        "backbone": name or "resnet50",
        "num_channels": options.get("num_channels", raw.get("num_channels", 3)),
        "features_only": True,
        "use_pretrained_backbone": False,
        "out_indices": options.get("out_indices", [1, 2, 3, 4]),
    }
    return out | ({"output_stride": options.get("output_stride", 16)} if raw.get("dilation") else {})


def vision(c: Any) -> FeatureMaps:
    """The backbone, a ResNet's norms frozen."""
    b = c.backbone_config
    if b.model_type == "convnext":
        return blueprint(b, "Backbone").module  # type: ignore[return-value]
    stride = None if b.model_type == "resnet" else b.output_stride
    b = b if b.model_type == "resnet" else b.resnet()
    return FeatureMaps(resnet.unpooled(b, frozen=True, output_stride=stride), b.out_places)


def vision_keys(c: Any) -> KeyMap:
    """Names in the backbone."""
    b = c.backbone_config
    return timm_keys().under("backbone", "") if b.model_type == "timm_backbone" else blueprint(b, "Backbone").keys()


def encoder_block(c: Any) -> Block:
    """Self-attention among places, then a feed-forward; a norm after each sum."""
    heads, norm = c.encoder_attention_heads, LayerNorm(1e-5)
    attn = PlacedAttention(heads, heads, c.d_model // heads, out_bias=True, dropout=c.attention_dropout)
    mlp = Mlp(c.encoder_ffn_dim, activation(c.activation_function), dropout=c.activation_dropout)
    return Block(tuple(Residual(n, m, after=norm, dropout=c.dropout) for n, m in (("attn", attn), ("mlp", mlp))))


def decoder_block(c: Any) -> Block:
    """Attention among queries, attention over places, feed-forward; a norm after each sum."""
    heads, norm = c.decoder_attention_heads, LayerNorm(1e-5)
    dim, rate = c.d_model // heads, c.attention_dropout
    steps = (
        ("attn", PlacedAttention(heads, heads, dim, out_bias=True, dropout=rate)),
        ("cross", PlacedCrossAttention(heads, dim, rate)),
        ("mlp", Mlp(c.decoder_ffn_dim, activation(c.activation_function), dropout=c.activation_dropout)),
    )
    return Block(tuple(Residual(n, m, after=norm, dropout=c.dropout) for n, m in steps))


def detr(c: Any) -> SetPredictor:
    layers = Layers((decoder_block(c),) * c.decoder_layers)
    return SetPredictor(
        vision(c),
        PatchEmbed(c.d_model, (1, 1)),
        SineGrid(c.d_model) if c.position_embedding_type == "sine" else LearnedGrid(c.d_model),
        Embed(c.num_queries, c.d_model, axes=(None, "embed")),
        Stack(Layers((encoder_block(c),) * c.encoder_layers)),
        QueryDecoder(LayerByLayer(layers) if c.auxiliary_loss else Stack(layers), LayerNorm(1e-5)),
        c.backbone_config.num_channels,
        c.dropout,
    )


def detector(c: Any, base: nn.Module) -> ObjectDetector:
    """Classes and boxes; one class more than labels says that there is no object."""
    return ObjectDetector(base, Linear(c.num_labels + 1, True, ("embed", None)), Boxes())


def segmenter(c: Any, base: nn.Module) -> ObjectDetector:
    """Classes, boxes and masks. Raises ConfigError when the masks cannot be drawn."""
    places = base.vision.places  # type: ignore[attr-defined]
    if len(places) < 3:
        raise ConfigError(f"segmentation needs three feature maps or more of the backbone; out_indices are {places}")
    if (c.d_model + c.encoder_attention_heads) % 8:
        raise ConfigError(f"d_model {c.d_model} and encoder_attention_heads must sum to a multiple of 8")
    return detector(c, base).clone(masks=MaskHead(c.encoder_attention_heads, activation(c.activation_function)))


def detr_init(c: Any) -> dict[str, Any]:
    """init_std everywhere but in a ResNet, the positions and the mask head."""
    rules: dict[str, Any] = {r"positions\.(row|column)\.embedding$": UnitUniform()}
    if c.backbone_config.model_type != "convnext":
        rules[r"vision\..*kernel$"] = FanOut()
    return rules | {
        r"masks\.attention\..*kernel$": ScaledXavier(c.init_xavier_std),
        r"masks\..*kernel$": KaimingUniform(),
        r"(kernel|embedding)$": Normal(c.init_std),
    }


def block_keys(ours: str, theirs: str, attentions: Mapping[str, str]) -> dict[str, str]:
    """Names in one layer. attentions: {our name: their name}."""
    rules = {}
    for mine, yours in attentions.items():
        rules[f"{ours}.{mine}.o_proj"] = f"{theirs}.{yours}.out_proj"
        rules[f"{ours}.{mine}.{{*}}"] = f"{theirs}.{yours}.{{*}}"
        rules[f"{ours}.{mine}_after"] = f"{theirs}.{yours}_layer_norm"
    return rules | {f"{ours}.mlp_after": f"{theirs}.final_layer_norm", f"{ours}.mlp.{{*}}": f"{theirs}.{{*}}"}


def detr_keys(c: Any) -> KeyMap:
    """The base model's names; transformers 4 kept the learned positions inside the backbone."""
    grid = {
        f"positions.{name}": Part(
            f"position_embedding.{name}_embeddings", also=(f"backbone.position_embedding.{name}_embeddings",)
        )
        for name in ("row", "column")
    }
    layer, decoder = "decoder.layers.{i}", {"attn": "self_attn", "cross": "encoder_attn"}
    own = {
        "project": "input_projection",
        "queries": "query_position_embeddings",
        "decoder.norm": "decoder.layernorm",
        **block_keys("encoder.{i}", "encoder.layers.{i}", {"attn": "self_attn"}),
        **block_keys(layer, layer, decoder),
    }
    return KeyMap({**own, **grid}) | vision_keys(c).under("vision", "backbone.conv_encoder.model")


def detector_keys(prefix: str) -> KeyMap:
    """The heads of detection, which segmentation keeps under `prefix`."""
    names = {"classes": "class_labels_classifier"} | {
        f"boxes.layers_{i}": f"bbox_predictor.layers.{i}" for i in range(3)
    }
    return KeyMap({ours: Part(prefix + theirs, also=(theirs,)) for ours, theirs in names.items()})


MASK_KEYS = {"masks.out": "mask_head.out_lay"}
MASK_KEYS |= {f"masks.attention.{p}_proj": f"bbox_attention.{p}_linear" for p in "qk"}
MASK_KEYS |= {f"masks.adapt_{n}": f"mask_head.adapter{n + 1}" for n in range(3)}
for n, step in enumerate(("conv_0", "conv_1", "refine_0", "refine_1", "refine_2"), 1):
    MASK_KEYS |= {f"masks.{step}.conv": f"mask_head.lay{n}", f"masks.{step}.norm": f"mask_head.gn{n}"}

SEGMENTATION = Task("DetrForSegmentation", segmenter, detector_keys("detr.") | KeyMap(MASK_KEYS), prefix="detr.model")
TASKS = {
    "ObjectDetection": Task("DetrForObjectDetection", detector, detector_keys("")),
    "ImageSegmentation": SEGMENTATION,
    "UniversalSegmentation": SEGMENTATION,
}

# Checkpoints keep the names of transformers 4; its version 5 calls the modules by others.
MODULES = (
    (r"out_proj$", "o_proj"),
    (r"layers\.(\d+)\.(fc[12])$", r"layers.\1.mlp.\2"),
    (r"([qk])_linear$", r"\1_proj"),
    (r"backbone\.conv_encoder", "backbone"),
)

register(Family(DetrConfig, "DetrModel", detr, detr_keys, "model", TASKS, detr_init, modules=MODULES))
