"""JEV: a decision head over any language model; questions in a prompt are answered by one forward pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.decision import DecisionHead
from jaxformers.models import Family, Task, build, family_of, keys_of, read_config, register
from jaxformers.models.multimodal.parts import nested
from jaxformers.models.text.decision import FILES, KINDS
from jaxformers.nn.param import Normal


@dataclass(frozen=True, kw_only=True)
class JevConfig(Config):
    """`text_config` None stands for transformers' default, a Qwen 3.5."""

    model_type: ClassVar[str] = "jev"
    subconfigs: ClassVar[Mapping[str, Callable]] = {"text_config": read_config}
    use_cache: ClassVar[bool] = False  # nothing is decoded

    hidden_size: int = 4096
    num_verbalizers: int = 24
    offsets: FrozenDict | None = None
    softcap: float | None = None
    text_config: Config | None = None
    initializer_range: float = 0.02

    def resolve(self) -> None:
        self.default("offsets", FrozenDict({"noul": 0, "score": 2, "choice": 8}))

    def validate(self) -> None:
        offsets = dict(self.offsets or {})
        if not set(KINDS) <= set(offsets) or not all(isinstance(v, int) for v in offsets.values()):
            raise ConfigError(f"offsets is {offsets}; expected the first label of each of {', '.join(KINDS)}")
        width = getattr(self.text_config, "hidden_size", self.hidden_size)
        if width != self.hidden_size:
            raise ConfigError(f"hidden_size is {self.hidden_size}, text_config's is {width}; the head reads the latter")


def language(c: JevConfig) -> nn.Module:
    """The model that the head reads."""
    if c.text_config is None:
        raise ConfigError(
            "this jev config names no text_config, which transformers takes for model type 'qwen3_5_text'; "
            "jaxformers does not support that type: give a text_config of one that it does, such as qwen2"
        )
    return build(c.text_config)


def decision(c: JevConfig, backbone: nn.Module) -> DecisionHead:
    return DecisionHead(backbone, c.num_verbalizers, tuple(c.offsets[kind] for kind in KINDS), c.softcap)  # type: ignore[index]


# transformers writes the head's matrix as "weight" alone, the name it has in a file of its own.
HEAD = KeyMap(
    {
        "head.weight": Part("weight", exact=True, also=("proj.weight",)),
        "head.bias": Part("proj.bias", exact=True, also=("bias",)),
    }
)


def language_keys(c: JevConfig) -> KeyMap:
    return KeyMap() if c.text_config is None else keys_of(c.text_config)


def jev_init(c: JevConfig) -> dict[str, Callable]:
    """The language model's own scheme; the head is normal."""
    if c.text_config is None:
        return {}
    family = family_of(c.text_config.model_type)
    own = {} if family.init is None else dict(family.init(c.text_config))
    plain = {r"(kernel|embedding)$": Normal(getattr(c.text_config, "initializer_range", c.initializer_range))}
    return {**nested({**own, **plain}, "backbone"), r"^head\.kernel$": Normal(c.initializer_range)}


register(
    Family(
        JevConfig,
        "JevForDecision",  # there is no base model: the class is the decision model itself
        lambda c: decision(c, language(c)),
        lambda c: language_keys(c).under("backbone", "model") | HEAD,
        "",
        {
            "Decision": Task(
                "JevForDecision", decision, HEAD, prefix="model", backbone=language, backbone_keys=language_keys,
                beside=FILES,
            )
        },
        jev_init,
        constants=(r"^head\.bias$",),  # published heads have none
    )
)  # fmt: skip
