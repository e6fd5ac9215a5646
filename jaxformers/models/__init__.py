"""Families: config -> module, and a key table. Found by model type, imported on demand."""

import difflib
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError, UnknownModelType
from jaxformers.core.keymap import KeyMap

# model_type -> the file that registers it. Types that differ by name only share a file.
MODEL_TYPES: dict[str, str] = {
    "albert": "text.albert",
    "bart": "text.bart",
    "bert": "text.bert",
    "bloom": "text.bloom",
    "clip": "multimodal.clip",
    "clip_text_model": "multimodal.clip",
    "clip_vision_model": "multimodal.clip",
    "convnext": "vision.convnext",
    "deberta-v2": "text.deberta",
    "deepseek_v3": "text.deepseek",
    "detr": "vision.detr",
    "dinov2": "vision.dinov2",
    "distilbert": "text.distilbert",
    "electra": "text.electra",
    "falcon": "text.falcon",
    "gemma": "text.gemma",
    "gemma2": "text.gemma",
    "gemma3_text": "text.gemma",
    "gpt2": "text.gpt2",
    "gpt_neox": "text.gpt_neox",
    "gpt_oss": "text.gpt_oss",
    "granite": "text.granite",
    "jamba": "text.jamba",
    "jev": "text.jev",
    "llama": "text.llama",
    "llava": "multimodal.llava",
    "mamba": "text.mamba",
    "mamba2": "text.mamba",
    "marian": "text.marian",
    "mistral": "text.llama",
    "mixtral": "text.mixtral",
    "modernbert": "text.modernbert",
    "mpnet": "text.mpnet",
    "olmo2": "text.olmo",
    "opt": "text.opt",
    "phi3": "text.phi",
    "qwen2": "text.qwen",
    "qwen3": "text.qwen",
    "qwen3_moe": "text.qwen_moe",
    "resnet": "vision.resnet",
    "roberta": "text.roberta",
    "siglip": "multimodal.siglip",
    "siglip_text_model": "multimodal.siglip",
    "siglip_vision_model": "multimodal.siglip",
    "smollm3": "text.smollm",
    "swin": "vision.swin",
    "t5": "text.t5",
    "vit": "vision.vit",
    "wav2vec2": "audio.wav2vec2",
    "whisper": "audio.whisper",
    "xlm-roberta": "text.roberta",
}


@dataclass(frozen=True)
class Beside:
    """Files beside a checkpoint's weights that hold a head.

    weights: weight files, configs: JSON files, of which any may be absent. config: (the checkpoint's config, {stem:
    JSON object}) -> the config of the type that has such a head.
    """

    weights: tuple[str, ...]
    configs: tuple[str, ...]
    config: Callable[[Any, Mapping[str, Any]], Config]


@dataclass(frozen=True)
class Task:
    """A head on a family's backbone.

    architecture: transformers' class name. build: (config, backbone) -> module. keys: the head's own table, with
    absolute keys. at: where the backbone sits in our tree. prefix: where it sits in the checkpoint, None
    for the family's own.
    backbone: how to build it, when it is not the family's base model. beside: files that may hold the head.
    modules: as the family's, None where they are the same.
    """

    architecture: str
    build: Callable[[Any, nn.Module], nn.Module]
    keys: KeyMap | Callable[[Any], KeyMap] = KeyMap()
    at: str = "backbone"
    prefix: str | None = None
    backbone: Callable[[Any], nn.Module] | None = None
    backbone_keys: KeyMap | Callable[[Any], KeyMap] | None = None
    beside: Beside | None = None
    modules: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True)
class Family:
    """One model type: its config, base model, key table and heads.

    tasks: by the end of transformers' auto class name: "CausalLM" for AutoModelForCausalLM.
    init: {pattern of our parameter path: initializer}, where transformers' scheme is not normal(initializer_range).
    constants: patterns of parameters that always start the same, so that a checkpoint may lack them.
    adapt: (config, checkpoint) -> config, for what only the tensors tell.
    modules: (pattern, replacement) from a module's name in checkpoints to its name in transformers, where these
    differ; adapters are named after the latter.
    """

    config: type[Config]
    architecture: str
    build: Callable[[Any], nn.Module]
    keys: KeyMap | Callable[[Any], KeyMap]
    prefix: str
    tasks: Mapping[str, Task] = field(default_factory=dict)
    init: Callable[[Any], Mapping[str, Callable]] | None = None
    constants: tuple[str, ...] = ()
    adapt: Callable[[Any, Mapping[str, Any]], Any] | None = None
    modules: tuple[tuple[str, str], ...] = ()

    @property
    def model_type(self) -> str:
        """The name configs carry."""
        return self.config.model_type


_FAMILIES: dict[str, Family] = {}


def register(family: Family, *, replace: bool = False) -> Family:
    """Make a family known by its config's model_type. Raises ConfigError when the name is taken."""
    if family.model_type in _FAMILIES and not replace:
        raise ConfigError(f"model type {family.model_type!r} is registered already; pass replace=True to override it")
    _FAMILIES[family.model_type] = family
    return family


def family_of(model_type: str) -> Family:
    """Find a family, importing its file when needed. Raises UnknownModelType with the nearest names."""
    if model_type not in _FAMILIES and model_type in MODEL_TYPES:
        importlib.import_module(f"jaxformers.models.{MODEL_TYPES[model_type]}")
    if model_type in _FAMILIES:
        return _FAMILIES[model_type]
    known = sorted({*MODEL_TYPES, *_FAMILIES})
    near = difflib.get_close_matches(model_type, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UnknownModelType(
        f"model type {model_type!r} is not supported{hint} Supported are {', '.join(known)}; "
        "add another with jaxformers.register"
    )


def read_config(raw: Mapping[str, Any], default: str | None = None, **overrides: Any) -> Config:
    """Read a config of any type from parsed JSON. Raises ConfigError when it names no type and there is no default."""
    model_type = raw.get("model_type", default)
    if not isinstance(model_type, str):
        raise ConfigError(f"the config has no model_type (found {model_type!r}); expected one such as 'llama'")
    return family_of(model_type).config.from_json(raw, **overrides)


def build(config: Config) -> nn.Module:
    """The base model of a config, for models made of others."""
    return family_of(config.model_type).build(config)


def keys_of(config: Config) -> KeyMap:
    """The key table of a config's base model, without its prefix."""
    return resolve(family_of(config.model_type).keys, config)


def resolve(keys: KeyMap | Callable[[Any], KeyMap], config: Config) -> KeyMap:
    """A key table, made from the config where it depends on it."""
    return keys if isinstance(keys, KeyMap) else keys(config)


@dataclass(frozen=True)
class Blueprint:
    """All that is needed to make, load and save one model: family, task, module and key tables."""

    family: Family
    task: str | None
    architecture: str
    module: nn.Module
    base_keys: KeyMap  # of the backbone, without a prefix
    head_keys: KeyMap
    prefix: str  # where the backbone sits in checkpoints of this class; "" for base models
    at: str  # where it sits in our tree

    def keys(self, prefix: str | None = None) -> KeyMap:
        """The whole key table, with the backbone at `prefix` in the checkpoint; None is where this class saves it."""
        return self.base_keys.under(self.at, self.prefix if prefix is None else prefix) | self.head_keys

    def module_name(self, key: str) -> str:
        """transformers' name of a module, given its name in checkpoints of this class."""
        own = None if self.task is None else self.family.tasks[self.task].modules
        for pattern, replacement in self.family.modules if own is None else own:
            key = re.sub(pattern, replacement, key)
        return key

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Where checkpoints of this family may hold the backbone."""
        others = (t.prefix for t in self.family.tasks.values() if t.prefix is not None)
        return tuple(dict.fromkeys((self.prefix, self.family.prefix, "", *others)))


def blueprint(config: Config, task: str | None) -> Blueprint:
    """Plan a model. task: "CausalLM" and so on, None for the base model. Raises ConfigError for an unknown head."""
    family = family_of(config.model_type)
    if task is None:
        keys = resolve(family.keys, config)
        return Blueprint(family, None, family.architecture, family.build(config), keys, KeyMap(), "", "")
    if task not in family.tasks:
        known = ", ".join(f"AutoModelFor{t}" for t in family.tasks) or "none"
        raise ConfigError(f"{config.model_type} has no AutoModelFor{task}; its heads are: {known}")
    head = family.tasks[task]
    prefix = family.prefix if head.prefix is None else head.prefix
    module = head.build(config, (head.backbone or family.build)(config))
    keys = resolve(family.keys if head.backbone_keys is None else head.backbone_keys, config)
    return Blueprint(family, task, head.architecture, module, keys, resolve(head.keys, config), prefix, head.at)


def task_of(config: Config) -> str | None:
    """The task of the class that saved a checkpoint; None for base models. Raises ConfigError when unknown."""
    family = family_of(config.model_type)
    names = config.architectures or ()
    if not names or names[0] == family.architecture:
        return None
    for task, head in family.tasks.items():
        if head.architecture == names[0]:
            return task
    known = [family.architecture, *(h.architecture for h in family.tasks.values())]
    raise ConfigError(f"architecture {names[0]!r} is not one of {config.model_type}'s: {', '.join(known)}; name a task")
