"""ResNet: blocks of convolutions with batch normalisation, and a shortcut that is projected where shapes change."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.vision import FeatureMaps, ImageClassifier, pooled
from jaxformers.models import Family, Task, register
from jaxformers.models.vision.stages import StagedConfig
from jaxformers.nn.conv import FanOut
from jaxformers.nn.fans import TorchUniform
from jaxformers.nn.resnet import ConvNorm, ResidualConvs, Stem
from jaxformers.nn.stack import Layers, Stack
from jaxformers.nn.stages import MeanPool, Stage, StagedEncoder
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(StagedConfig):
    model_type: ClassVar[str] = "resnet"

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple = (256, 512, 1024, 2048)
    depths: tuple = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    def resolve(self) -> None:
        self.name_stages(len(self.depths))

    def validate(self) -> None:
        if self.layer_type not in ("basic", "bottleneck"):
            raise ConfigError(f"layer_type is {self.layer_type!r}; expected 'basic' or 'bottleneck'")
        if len(self.hidden_sizes) != len(self.depths):
            raise ConfigError(f"hidden_sizes {self.hidden_sizes} and depths {self.depths} must have the same length")


@dataclass(frozen=True)
class Spread:
    """How far apart the taps of a block's 3x3 convolutions are, and whether its norms learn."""

    first: int = 1
    rest: int = 1
    frozen: bool = False


def block(c: Any, before: int, width: int, stride: int, spread: Spread) -> ResidualConvs:
    """One block from `before` to `width` channels; hidden_act follows the sum, inside it is always ReLU."""
    frozen = spread.frozen
    if c.layer_type == "basic":
        first = ConvNorm(width, 3, stride, dilation=spread.first, frozen=frozen)
        convs = (first, ConvNorm(width, 3, act=None, dilation=spread.rest, frozen=frozen))
    else:
        narrow = width // 4
        one, two = (stride, 1) if c.downsample_in_bottleneck else (1, stride)
        convs = (
            ConvNorm(narrow, 1, one, frozen=frozen),
            ConvNorm(narrow, 3, two, dilation=spread.first, frozen=frozen),
            ConvNorm(width, 1, act=None, frozen=frozen),
        )
    same = before == width and stride == 1
    shortcut = None if same else ConvNorm(width, 1, stride, act=None, frozen=frozen)
    return ResidualConvs(convs, shortcut, activation(c.hidden_act))


def stages(c: Any, frozen: bool, output_stride: int | None) -> tuple[Stage, ...]:
    """All but the first halve the resolution, until it is the input's by `output_stride`; then taps spread."""
    out, before, reached, dilation = [], c.embedding_size, 4, 1
    for n, (width, depth) in enumerate(zip(c.hidden_sizes, c.depths, strict=True)):
        stride, last = (2 if n > 0 or c.downsample_in_first_stage else 1), dilation
        if output_stride is not None and reached >= output_stride:
            stride, dilation = 1, dilation * stride
        reached *= stride
        first = block(c, before, width, stride, Spread(last, dilation, frozen))
        rest = (block(c, width, width, 1, Spread(dilation, dilation, frozen)),) * (depth - 1)
        out.append(Stage(Stack(Layers((first, *rest)))))
        before = width
    return tuple(out)


def unpooled(c: Any, frozen: bool = False, output_stride: int | None = None) -> StagedEncoder:
    """Without a pooler, as a backbone."""
    stem = Stem(c.embedding_size, activation(c.hidden_act), frozen)
    return StagedEncoder(stem, stages(c, frozen, output_stride), channels=c.num_channels)


def resnet(c: Any) -> StagedEncoder:
    return unpooled(c).clone(pooler=MeanPool(keep=True))


def resnet_init(c: Config) -> dict[str, Any]:
    """PyTorch's own scheme for the classifier; transformers sets the convolutions."""
    return {r"^head\.(kernel|bias)$": TorchUniform(c.hidden_sizes[-1]), r"conv\.kernel$": FanOut()}


# No model computes with the counters: they travel beside the parameters, see hub/carried.py.
COUNTER = (r"\.num_batches_tracked$",)
LAYER = "encoder.stages.{s}.layers.{i}."
RESNET_KEYS = KeyMap(
    {
        "stem.embed.conv": "embedder.embedder.convolution",
        "stem.embed.norm": "embedder.embedder.normalization",
        "stages_{s}.layers.{i}.convs_{n}.conv": LAYER + "layer.{n}.convolution",
        "stages_{s}.layers.{i}.convs_{n}.norm": LAYER + "layer.{n}.normalization",
        "stages_{s}.layers.{i}.shortcut.conv": LAYER + "shortcut.convolution",
        "stages_{s}.layers.{i}.shortcut.norm": LAYER + "shortcut.normalization",
    },
    ignore=COUNTER,
)

TASKS = {
    "ImageClassification": Task(
        "ResNetForImageClassification",
        lambda c, b: ImageClassifier(b, c.num_labels, pooled),
        KeyMap({"head": "classifier.1"}),
    ),
    "Backbone": Task("ResNetBackbone", lambda c, b: FeatureMaps(b, c.out_places), prefix="", backbone=unpooled),
}

register(Family(ResNetConfig, "ResNetModel", resnet, RESNET_KEYS, "resnet", TASKS, resnet_init))
