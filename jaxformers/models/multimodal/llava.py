"""LLaVA: a vision tower's hidden states, projected, take the places of image tokens in any language model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.vision_language import VisionLanguageLM
from jaxformers.models import Family, Task, build, family_of, keys_of, read_config, register
from jaxformers.models.multimodal.parts import anywhere, nested
from jaxformers.models.tasks import lm_head
from jaxformers.nn.param import Normal
from jaxformers.nn.vision_language import Projector, VisionLanguage
from jaxformers.ops.activations import activation

# The tower of a config that names none: CLIP's ViT-L/14 at 336 pixels.
VISION = {
    "model_type": "clip_vision_model",
    "intermediate_size": 4096,
    "hidden_size": 1024,
    "patch_size": 14,
    "image_size": 336,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "vocab_size": 32000,
    "projection_dim": 768,
}


def read_text(raw: Mapping[str, Any]) -> Config:
    """The language model's config; llama's when it names no type."""
    return read_config(raw, "llama")


def read_vision(raw: Mapping[str, Any]) -> Config:
    """The vision tower's config; CLIP's when it names no type."""
    return read_config(raw, "clip_vision_model")


@dataclass(frozen=True, kw_only=True)
class LlavaConfig(Config):
    model_type: ClassVar[str] = "llava"
    aliases: ClassVar[Mapping[str, str]] = {"image_token_id": "image_token_index"}
    subconfigs: ClassVar[Mapping[str, Callable]] = {"text_config": read_text, "vision_config": read_vision}

    text_config: Config | None = None
    vision_config: Config | None = None
    image_token_index: int = 32000
    image_seq_length: int = 576
    projector_hidden_act: str = "gelu"
    vision_feature_select_strategy: str = "default"
    vision_feature_layer: int | tuple = -2
    multimodal_projector_bias: bool = True
    tie_word_embeddings: bool = False

    def resolve(self) -> None:
        if self.text_config is None:
            self._set("text_config", read_text({}))
        if self.vision_config is None:
            self._set("vision_config", read_vision(VISION))
        # Old files say it of the language model only.
        if getattr(self.text_config, "tie_word_embeddings", False):
            self._set("tie_word_embeddings", True)

    def validate(self) -> None:
        if self.vision_feature_select_strategy not in ("default", "full"):
            raise ConfigError(
                f"vision_feature_select_strategy {self.vision_feature_select_strategy!r} is not 'default' or 'full'"
            )
        states = getattr(self.vision_config, "num_hidden_layers", 0) + 1
        for layer in feature_layers(self):
            if not -states <= layer < states:
                raise ConfigError(f"vision_feature_layer is {layer}; the vision tower has {states} hidden states")


def feature_layers(c: Any) -> tuple[int, ...]:
    """Which hidden states of the vision tower are read."""
    return (c.vision_feature_layer,) if isinstance(c.vision_feature_layer, int) else c.vision_feature_layer


def llava(c: Any) -> VisionLanguage:
    width = c.text_config.hidden_size
    return VisionLanguage(
        build(c.vision_config),
        Projector(width, activation(c.projector_hidden_act), c.multimodal_projector_bias),
        build(c.text_config),
        c.image_token_index,
        c.vision_feature_layer,
        c.vision_feature_select_strategy,
    )


# Files hold the language model as if it were a model with a head; some name the parts as they sit in memory.
LANGUAGE = ("language_model.model", "model.language_model", "language_model.model.model", "model.language_model.model")
TOWER = ("vision_tower", "vision_tower.vision_model", "model.vision_tower", "model.vision_tower.vision_model")
PROJECTOR = ("multi_modal_projector", "model.multi_modal_projector")
HEAD = ("language_model.lm_head", "lm_head")


def llava_keys(c: Any) -> KeyMap:
    """The parts' tables, under every name they have had; a head is left aside."""
    head = KeyMap(ignore=(r"^(language_model\.)?lm_head\.",))
    language = anywhere(keys_of(c.text_config), "language", LANGUAGE)
    vision = anywhere(keys_of(c.vision_config), "vision", TOWER)
    return language | vision | anywhere(KeyMap({"{*}": "{*}"}), "project", PROJECTOR) | head


def head_keys(c: Any) -> KeyMap:
    """The head's table; a tied one has none."""
    return KeyMap() if c.tie_word_embeddings else anywhere(KeyMap({"": ""}), "head", HEAD)


def llava_init(c: Any) -> dict[str, Callable]:
    """Both parts' own schemes; what lies between and after them is normal."""
    rules: dict[str, Callable] = {}
    for name, part in (("language", c.text_config), ("vision", c.vision_config)):
        family = family_of(part.model_type)
        own = {} if family.init is None else dict(family.init(part))
        std = getattr(part, "initializer_range", None)
        plain = {} if std is None else {r"(kernel|embedding)$": Normal(std)}
        rules |= nested({**own, **plain}, rf"(backbone\.)?{name}")
    std = getattr(c.text_config, "initializer_range", None) or 0.02
    return {**rules, r"(project\.linear_[12]|^head)\.kernel$": Normal(std)}


def head(c: Any, backbone: Any) -> VisionLanguageLM:
    return VisionLanguageLM(backbone, None if c.tie_word_embeddings else lm_head(c.text_config))


# Checkpoints keep the names of transformers 4; its version 5 calls the modules by others.
MODULES = ((r"^language_model\.model\.", "language_model."),)
HEAD_MODULES = (
    (r"^language_model\.lm_head$", "lm_head"),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
)
LM = Task("LlavaForConditionalGeneration", head, head_keys, modules=HEAD_MODULES)
TASKS = {"ImageTextToText": LM, "PreTraining": LM, "MultimodalLM": LM}

register(Family(LlavaConfig, "LlavaModel", llava, llava_keys, "", TASKS, llava_init, modules=MODULES))
