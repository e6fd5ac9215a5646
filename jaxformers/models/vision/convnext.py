"""ConvNeXt: depthwise convolutions in the place of attention; a norm and patches of two by two begin each stage."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.keymap import KeyMap
from jaxformers.heads.vision import FeatureMaps, ImageClassifier, pooled
from jaxformers.models import Family, Task, register
from jaxformers.models.vision.stages import StagedConfig, drop_rates
from jaxformers.models.vision.vit import CLASSIFIER
from jaxformers.nn.convnext import NormThenPatch, PatchThenNorm, WideConv
from jaxformers.nn.layer_scale import LayerScale
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.patch import pair
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stack import Layers, Stack
from jaxformers.nn.stages import MeanPool, Stage, StagedEncoder
from jaxformers.ops.activations import activation

EPS = 1e-6  # of every norm but the last


@dataclass(frozen=True, kw_only=True)
class ConvNextConfig(StagedConfig):
    model_type: ClassVar[str] = "convnext"
    aliases: ClassVar[dict[str, str]] = {"num_hidden_layers": "num_stages"}

    num_channels: int = 3
    patch_size: int | tuple = 4
    num_stages: int = 4
    hidden_sizes: tuple = (96, 192, 384, 768)
    depths: tuple = (3, 3, 9, 3)
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    layer_scale_init_value: float = 1e-6
    drop_path_rate: float = 0.0
    image_size: int | tuple = 224

    def resolve(self) -> None:
        self.name_stages(len(self.depths))


def block(c: Any, rate: float) -> Block:
    """One residual step. A scale that starts at zero or below is left out altogether."""
    scale = LayerScale(c.layer_scale_init_value) if c.layer_scale_init_value > 0 else None
    return Block((Residual("conv", WideConv(activation(c.hidden_act), LayerNorm(EPS)), post=scale, drop_path=rate),))


def unpooled(c: Any) -> StagedEncoder:
    """Without the pooler and its norm, as a backbone."""
    rates, out = drop_rates(c.drop_path_rate, c.depths), []
    for n in range(c.num_stages):
        layers = Stack(Layers(tuple(block(c, rate) for rate in rates[n])))
        out.append(Stage(layers, NormThenPatch(c.hidden_sizes[n], LayerNorm(EPS)) if n > 0 else None))
    stem = PatchThenNorm(c.hidden_sizes[0], pair(c.patch_size), LayerNorm(EPS))
    return StagedEncoder(stem, tuple(out), channels=c.num_channels)


def convnext(c: Any) -> StagedEncoder:
    return unpooled(c).clone(pooler=MeanPool(LayerNorm(c.layer_norm_eps)))


def feature_maps(c: Any, encoder: nn.Module) -> FeatureMaps:
    """The encoder as a backbone, with a norm for each stage it returns."""
    return FeatureMaps(encoder, c.out_places, tuple(LayerNorm(EPS) for _ in c.out_places))


def norm_keys(c: Any) -> KeyMap:
    """The norms of a backbone, which checkpoints name after their stages."""
    return KeyMap({f"norms_{i}": f"hidden_states_norms.{name}" for i, name in enumerate(c.out_features)})


STAGE = "encoder.stages.{s}."
LAYER = STAGE + "layers.{i}."
CONVNEXT_KEYS = KeyMap(
    {
        "stem.patches": "embeddings.patch_embeddings",
        "stem.norm": "embeddings.layernorm",
        "stages_{s}.down.norm": STAGE + "downsampling_layer.0",
        "stages_{s}.down.patches": STAGE + "downsampling_layer.1",
        "stages_{s}.layers.{i}.conv.depthwise": LAYER + "dwconv",
        "stages_{s}.layers.{i}.conv.norm": LAYER + "layernorm",
        "stages_{s}.layers.{i}.conv.fc1": LAYER + "pwconv1",
        "stages_{s}.layers.{i}.conv.fc2": LAYER + "pwconv2",
        "stages_{s}.layers.{i}.conv_post.gain": LAYER + "layer_scale_parameter",
        "pooler.norm": "layernorm",
    }
)

TASKS = {
    "ImageClassification": Task(
        "ConvNextForImageClassification", lambda c, b: ImageClassifier(b, c.num_labels, pooled), CLASSIFIER
    ),
    "Backbone": Task("ConvNextBackbone", feature_maps, norm_keys, prefix="", backbone=unpooled),
}

register(Family(ConvNextConfig, "ConvNextModel", convnext, CONVNEXT_KEYS, "convnext", TASKS))
