"""ResNets in the layout of the timm library, as backbones of models whose checkpoints were made with it."""

from dataclasses import dataclass
from typing import ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.models.vision.resnet import COUNTER, ResNetConfig

WIDE, NARROW = (256, 512, 1024, 2048), (64, 128, 256, 512)
RESNETS = {
    "resnet18": ("basic", NARROW, (2, 2, 2, 2)),
    "resnet34": ("basic", NARROW, (3, 4, 6, 3)),
    "resnet50": ("bottleneck", WIDE, (3, 4, 6, 3)),
    "resnet101": ("bottleneck", WIDE, (3, 4, 23, 3)),
    "resnet152": ("bottleneck", WIDE, (3, 8, 36, 3)),
}


@dataclass(frozen=True, kw_only=True)
class TimmBackboneConfig(Config):
    model_type: ClassVar[str] = "timm_backbone"

    backbone: str | None = None
    num_channels: int = 3
    features_only: bool = True
    use_pretrained_backbone: bool | None = None
    freeze_batch_norm_2d: bool = False
    output_stride: int | None = None
    out_features: tuple | None = None
    out_indices: tuple | None = None

    def resolve(self) -> None:
        self.default("out_indices", (-1,))

    def resnet(self) -> ResNetConfig:
        """The same network as a ResNetConfig. Raises ConfigError for one that is no plain ResNet."""
        name = (self.backbone or "").split(".")[0]
        if name not in RESNETS:
            raise ConfigError(
                f"backbone {self.backbone!r} is not among timm's that jaxformers has: {', '.join(RESNETS)}"
            )
        kind, widths, depths = RESNETS[name]
        places = tuple(i % 5 for i in self.out_indices or ())
        if 0 in places:
            raise ConfigError(f"out_indices {self.out_indices} ask for timm's stem; expected numbers from 1 to 4")
        return ResNetConfig(
            num_channels=self.num_channels, layer_type=kind, hidden_sizes=widths, depths=depths, out_indices=places
        )


def timm_keys() -> KeyMap:
    """Names of timm's ResNets; its stages and convolutions count from 1."""
    rules = {"stem.embed.conv": "conv1", "stem.embed.norm": "bn1"}
    for s in range(4):
        ours, theirs = f"stages_{s}.layers.{{i}}.", f"layer{s + 1}.{{i}}."
        for n in range(3):
            rules[f"{ours}convs_{n}.conv"] = f"{theirs}conv{n + 1}"
            rules[f"{ours}convs_{n}.norm"] = f"{theirs}bn{n + 1}"
        rules[ours + "shortcut.conv"], rules[ours + "shortcut.norm"] = theirs + "downsample.0", theirs + "downsample.1"
    return KeyMap(rules, ignore=COUNTER)
