"""CLIP: a causal text tower pooled at its end-of-text token, and a ViT with a norm before its layers.

Source: arXiv:2103.00020.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
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
from jaxformers.nn.linear import Linear
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import Normal
from jaxformers.nn.patch import PatchEmbed, Token, grid_of, pair
from jaxformers.nn.towers import EosPooler, FlatPositions, ImageTower, NormedFirst, TextTower
from jaxformers.nn.two_tower import Similarity, TwoTower

# Configs written before transformers 4.31 name this id, which is not the tokenizer's end of text.
WRONG_EOS = 2


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(Config):
    model_type: ClassVar[str] = "clip_text_model"

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int | None = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float | None = 1e-5
    attention_dropout: float | None = 0.0
    initializer_range: float = 0.02
    initializer_factor: float | None = 1.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | tuple | None = 49407

    def validate(self) -> None:
        check_heads(self)
        if not isinstance(self.eos_token_id, int):
            raise ConfigError(f"eos_token_id is {self.eos_token_id!r}; CLIP pools at one token, so give one id")


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(Config):
    model_type: ClassVar[str] = "clip_vision_model"

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int | tuple | None = 224
    patch_size: int | tuple | None = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float | None = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0

    def validate(self) -> None:
        check_heads(self)


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(Config):
    model_type: ClassVar[str] = "clip"
    subconfigs: ClassVar[Mapping[str, Callable]] = {
        "text_config": CLIPTextConfig.from_json,
        "vision_config": CLIPVisionConfig.from_json,
    }

    text_config: Config | None = None
    vision_config: Config | None = None
    projection_dim: int | None = 512
    logit_scale_init_value: float | None = 2.6592
    initializer_factor: float | None = 1.0

    def resolve(self) -> None:
        self.default("text_config", CLIPTextConfig())
        self.default("vision_config", CLIPVisionConfig())

    @classmethod
    def upgrade(cls, raw: dict[str, Any]) -> dict[str, Any]:
        for name, read in cls.subconfigs.items():
            # Old files repeat a tower's config under another name; that one wins, its defaults included.
            old = raw.pop(f"{name}_dict", None)
            if old is not None:
                raw[name] = {**(raw.get(name) or {}), **read(old).to_json()}
        return raw


def clip_text(c: Any) -> TextTower:
    pooler = EosPooler(None if c.eos_token_id == WRONG_EOS else c.eos_token_id)
    return TextTower(*tower_tables(c), tower_stack(c), LayerNorm(c.layer_norm_eps), pooler)


def clip_vision(c: Any) -> ImageTower:
    return ImageTower(
        PatchEmbed(c.hidden_size, pair(c.patch_size), bias=False),
        FlatPositions(grid_of(c.image_size, c.patch_size), extra=1),
        tower_stack(c),
        pair(c.image_size),
        cls=Token(c.hidden_size, rank=1),
        stem=LayerNorm(c.layer_norm_eps),
        pooler=NormedFirst(LayerNorm(c.layer_norm_eps)),
        channels=c.num_channels,
    )


def clip(c: Any) -> TwoTower:
    return TwoTower(
        clip_text(c.text_config),
        clip_vision(c.vision_config),
        Similarity(c.logit_scale_init_value or 0.0),
        Linear(c.projection_dim, axes=("embed", None)),
        Linear(c.projection_dim, axes=("embed", None)),
    )


VISION_KEYS = IMAGE_KEYS | KeyMap(
    {"cls.token": "embeddings.class_embedding", "stem": "pre_layrnorm", "pooler.norm": "post_layernorm"}
)
CLIP_KEYS = (
    TEXT_KEYS.under("text", "text_model")
    | VISION_KEYS.under("image", "vision_model")
    | KeyMap(
        {
            "text_projection": "text_projection",
            "image_projection": "visual_projection",
            "similarity.logit_scale": "logit_scale",
        }
    )
)


def tower_init(c: Any) -> dict[str, Callable]:
    """The scheme of both towers' layers."""
    factor = c.initializer_factor or 0.0
    inner = c.hidden_size**-0.5 * (2 * c.num_hidden_layers) ** -0.5 * factor
    return {
        r"attn\.o_proj\.kernel$": Normal(c.hidden_size**-0.5 * factor),
        r"attn\.[qkv]_proj\.kernel$": Normal(inner),
        r"mlp\.fc1\.kernel$": Normal((2 * c.hidden_size) ** -0.5 * factor),
        r"mlp\.fc2\.kernel$": Normal(inner),
    }


def text_init(c: Any) -> dict[str, Callable]:
    """The text tower's scheme."""
    tables = Normal(0.02 * (c.initializer_factor or 0.0))
    return {**tower_init(c), r"embedding$": tables}


def vision_init(c: Any) -> dict[str, Callable]:
    """The image tower's scheme."""
    tables = Normal(c.initializer_range * c.initializer_factor)
    return {
        **tower_init(c),
        r"cls\.token$": Normal(c.hidden_size**-0.5 * c.initializer_factor),
        r"(patches\.kernel|positions\.table)$": tables,
    }


def clip_init(c: Any) -> dict[str, Callable]:
    """Both towers' schemes, and the projections' and the classifier's own."""
    factor, image = c.initializer_factor or 0.0, c.vision_config.hidden_size**-0.5
    return {
        **nested(text_init(c.text_config), "text"),
        **nested(vision_init(c.vision_config), "image", "backbone"),
        r"text_projection\.kernel$": Normal(c.text_config.hidden_size**-0.5 * factor),
        r"(image_projection|^head)\.kernel$": Normal(image * factor),
    }


def mean_patch(out: Any) -> jax.Array:
    """The mean of the patches, without the class token."""
    return out.last_hidden_state[:, 1:].mean(axis=1)


TASKS = {
    "ZeroShotImageClassification": Task("CLIPModel", same, at="", prefix=""),
    "ImageClassification": Task(
        "CLIPForImageClassification",
        lambda c, b: ImageClassifier(b, c.num_labels, mean_patch),
        KeyMap({"head": "classifier"}),
        prefix="vision_model",
        backbone=lambda c: clip_vision(c.vision_config),
        backbone_keys=VISION_KEYS,
    ),
}
TEXT_TASKS = {"TextEncoding": Task("CLIPTextModel", same, at="", prefix="")}

register(Family(CLIPTextConfig, "CLIPTextModel", clip_text, TEXT_KEYS, "text_model", TEXT_TASKS, text_init))
register(Family(CLIPVisionConfig, "CLIPVisionModel", clip_vision, VISION_KEYS, "vision_model", {}, vision_init))
register(Family(CLIPConfig, "CLIPModel", clip, CLIP_KEYS, "", TASKS, clip_init))
