"""SigLIP: two towers that see both ways, compared by a sigmoid with a bias; images are pooled by attention.

Source: arXiv:2303.15343.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.vision import ImageClassifier
from jaxformers.models import Family, Task, register
from jaxformers.models.multimodal.parts import (
    IMAGE_KEYS,
    TEXT_KEYS,
    check_heads,
    nested,
    same,
    tower_stack,
    tower_tables,
)
from jaxformers.nn.fans import LecunNormal, XavierUniform
from jaxformers.nn.linear import Linear
from jaxformers.nn.map_pooler import AttentionPooler
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import Normal, Uniform
from jaxformers.nn.patch import PatchEmbed, grid_of, pair
from jaxformers.nn.towers import FlatPositions, ImageTower, LastPooler, TextTower
from jaxformers.nn.two_tower import Similarity, TwoTower
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class SiglipTextConfig(Config):
    model_type: ClassVar[str] = "siglip_text_model"

    vocab_size: int = 32000
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 64
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | tuple | None = 49407
    projection_size: int | None = None

    def resolve(self) -> None:
        self.default("projection_size", self.hidden_size)

    def validate(self) -> None:
        check_heads(self)


@dataclass(frozen=True, kw_only=True)
class SiglipVisionConfig(Config):
    model_type: ClassVar[str] = "siglip_vision_model"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int | tuple = 224
    patch_size: int | tuple = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    vision_use_head: bool = True

    def validate(self) -> None:
        check_heads(self)


@dataclass(frozen=True, kw_only=True)
class SiglipConfig(Config):
    model_type: ClassVar[str] = "siglip"
    subconfigs: ClassVar[Mapping[str, Callable]] = {
        "text_config": SiglipTextConfig.from_json,
        "vision_config": SiglipVisionConfig.from_json,
    }

    text_config: Config | None = None
    vision_config: Config | None = None
    initializer_factor: float = 1.0

    def resolve(self) -> None:
        self.default("text_config", SiglipTextConfig())
        self.default("vision_config", SiglipVisionConfig())


def siglip_text(c: Any) -> TextTower:
    pooler = LastPooler(Linear(c.projection_size, True, ("embed", None)))
    return TextTower(*tower_tables(c), tower_stack(c), LayerNorm(c.layer_norm_eps), pooler, causal=False)


def siglip_vision(c: Any) -> ImageTower:
    pooler = None
    if c.vision_use_head:
        mlp = Mlp(c.intermediate_size, activation(c.hidden_act))
        # The probe is drawn as a Xavier kernel of one input and one output.
        probe = Uniform((3.0 / c.hidden_size) ** 0.5)
        pooler = AttentionPooler(c.num_attention_heads, mlp, LayerNorm(c.layer_norm_eps), probe)
    return ImageTower(
        PatchEmbed(c.hidden_size, pair(c.patch_size)),
        FlatPositions(grid_of(c.image_size, c.patch_size)),
        tower_stack(c),
        pair(c.image_size),
        norm=LayerNorm(c.layer_norm_eps),
        pooler=pooler,
        channels=c.num_channels,
    )


def siglip(c: Any) -> TwoTower:
    text, vision = c.text_config, c.vision_config
    if not vision.vision_use_head:
        raise ConfigError("vision_config.vision_use_head is False, so images have no embedding to compare with texts")
    if text.projection_size != vision.hidden_size:
        raise ConfigError(
            f"text_config.projection_size {text.projection_size} differs from vision_config.hidden_size "
            f"{vision.hidden_size}; texts and images are compared in one space"
        )
    return TwoTower(siglip_text(text), siglip_vision(vision), Similarity(bias=True, shape=(1,)))


SIGLIP_TEXT_KEYS = TEXT_KEYS | KeyMap({"pooler.project": "head"})


def vision_keys(c: Any) -> KeyMap:
    """The image tower's table; the pooler's queries, keys and values lie in one tensor."""
    packed = {
        f"pooler.attn.{p}_proj.{leaf}": Part(f"head.attention.in_proj_{leaf}", (3, c.hidden_size), n, exact=True)
        for n, p in enumerate("qkv")
        for leaf in ("weight", "bias")
    }
    pooler = {
        "pooler.probe": Part("head.probe", exact=True),
        **packed,
        "pooler.attn.o_proj": "head.attention.out_proj",
        "pooler.norm": "head.layernorm",
        "pooler.mlp.{*}": "head.mlp.{*}",
    }
    return IMAGE_KEYS | KeyMap({"norm": "post_layernorm", **(pooler if c.vision_use_head else {})})


def siglip_keys(c: Any) -> KeyMap:
    """Both towers' tables, and how their outputs are compared."""
    similarity = {f"similarity.{name}": Part(name, exact=True) for name in ("logit_scale", "logit_bias")}
    image = vision_keys(c.vision_config).under("image", "vision_model")
    return SIGLIP_TEXT_KEYS.under("text", "text_model") | image | KeyMap(similarity)


def tower_init(c: Any) -> dict[str, Callable]:
    """The scheme of either tower; `width` is the image tower's where there are both."""
    return {
        r"pooler\.attn\.o_proj\.kernel$": LecunNormal(),
        r"pooler\.attn\.[qkv]_proj\.kernel$": XavierUniform(copies=3),
        r"(attn\.[qkvo]_proj|mlp\.fc[12])\.kernel$": XavierUniform(),
        r"mlp\.fc[12]\.bias$": Normal(1e-6),
        r"positions\.table$": Normal(c.hidden_size**-0.5),
        r"embedding$": Normal(c.hidden_size**-0.5),
        r"(patches|project)\.kernel$": LecunNormal(),
    }


def siglip_init(c: Any) -> dict[str, Callable]:
    """Both towers' schemes, and the classifier's."""
    return {
        **nested(tower_init(c.text_config), "text"),
        **nested(tower_init(c.vision_config), "image", "backbone"),
        r"^head\.kernel$": Normal(c.vision_config.hidden_size**-0.5 * c.initializer_factor),
    }


def mean_token(out: Any) -> Any:
    """The mean of all patches."""
    return out.last_hidden_state.mean(axis=1)


TASKS = {
    "ZeroShotImageClassification": Task("SiglipModel", same, at="", prefix=""),
    "ImageClassification": Task(
        "SiglipForImageClassification",
        lambda c, b: ImageClassifier(b, c.num_labels, mean_token),
        KeyMap({"head": "classifier"}),
        prefix="vision_model",
        backbone=lambda c: siglip_vision(c.vision_config),
        backbone_keys=lambda c: vision_keys(c.vision_config),
    ),
}

register(Family(SiglipTextConfig, "SiglipTextModel", siglip_text, SIGLIP_TEXT_KEYS, "text_model", {}, tower_init))
register(Family(SiglipVisionConfig, "SiglipVisionModel", siglip_vision, vision_keys, "vision_model", {}, tower_init))
register(Family(SiglipConfig, "SiglipModel", siglip, siglip_keys, "", TASKS, siglip_init))
