"""ResNet: blocks of convolutions with batch normalisation, and a shortcut that is projected where shapes change."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.vision import FeatureMaps, ImageClassifier, pooled
from jaxformers.models import Family, Task, register
from jaxformers.models.vision.stages import StagedConfig
from jaxformers.nn.conv import FanOut, Uniform
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


def block(c: Any, before: int, width: int, stride: int) -> ResidualConvs:
    """One block from `before` to `width` channels; hidden_act follows the sum, inside it is always ReLU."""
    if c.layer_type == "basic":
        convs = (ConvNorm(width, 3, stride), ConvNorm(width, 3, act=None))
    else:
        narrow = width // 4
        first, second = (stride, 1) if c.downsample_in_bottleneck else (1, stride)
        convs = (ConvNorm(narrow, 1, first), ConvNorm(narrow, 3, second), ConvNorm(width, 1, act=None))
    shortcut = None if before == width and stride == 1 else ConvNorm(width, 1, stride, act=None)
    return ResidualConvs(convs, shortcut, activation(c.hidden_act))


def stages(c: Any) -> tuple[Stage, ...]:
    """All but the first halve the resolution, in their first block."""
    out, before = [], c.embedding_size
    for n, (width, depth) in enumerate(zip(c.hidden_sizes, c.depths, strict=True)):
        stride = 2 if n > 0 or c.downsample_in_first_stage else 1
        rest = (block(c, width, width, 1),) * (depth - 1)
        out.append(Stage(Stack(Layers((block(c, before, width, stride), *rest)))))
        before = width
    return tuple(out)


def unpooled(c: Any) -> StagedEncoder:
    """Without a pooler, as a backbone."""
    return StagedEncoder(Stem(c.embedding_size, activation(c.hidden_act)), stages(c), channels=c.num_channels)


def resnet(c: Any) -> StagedEncoder:
    return unpooled(c).clone(pooler=MeanPool(keep=True))


def resnet_init(c: Config) -> dict[str, Any]:
    """PyTorch's own scheme for the classifier; transformers sets the convolutions."""
    bound = c.hidden_sizes[-1] ** -0.5
    return {r"^head\.(kernel|bias)$": Uniform(bound), r"conv\.kernel$": FanOut()}


# The counter is of no use to us, and as an integer it would stand in the way of gradients; transformers starts it at 0.
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
