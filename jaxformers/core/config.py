"""Architecture configs: frozen dataclasses that read and write Hugging Face's config.json.

Field names and defaults are transformers'. Keys that no field reads are carried along for saving; a key that would
change the numbers is refused instead.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from jaxformers.core.errors import ConfigError, UnknownOption
from jaxformers.core.frozen import FrozenDict, freeze, thaw
from jaxformers.core.rope_config import read_rope, write_rope

# Keys that change what a model computes, with the values that change nothing. Read by a field or refused.
BEHAVIOURAL: Mapping[str, tuple[Any, ...]] = {
    "attention_bias": (None, False),
    "attention_chunk_size": (None,),
    "attention_multiplier": (None, 1.0),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (None, 1.0),
    "final_logit_softcapping": (None,),
    "is_causal": (None, True),
    "layer_types": (None,),
    "logit_scale": (None, 1.0),
    "logits_scaling": (None, 1.0),
    "mlp_bias": (None, False),
    "moe_layer_freq": (None, 1),
    "no_rope_layers": (None,),
    "parallel_residual": (None,),
    "partial_rotary_factor": (None, 1.0),
    "per_layer_config": (None,),
    "qk_layernorm": (None, False),
    "qk_norm": (None, False),
    "query_pre_attn_scalar": (None,),
    "quantization_config": (None,),
    "residual_multiplier": (None, 1.0),
    "rope_parameters": (None,),
    "rope_scaling": (None,),
    "scale_embedding": (None, False),
    "sliding_window": (None,),
    "use_parallel_residual": (None,),
    "use_qk_norm": (None, False),
    "use_qkv_bias": (None, False),
}

# A full layer_types list says nothing new to a model that has one kind of layer.
UNIFORM_LAYERS = {"full_attention"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every architecture config shares; families add their own fields."""

    model_type: ClassVar[str] = ""
    aliases: ClassVar[Mapping[str, str]] = {}  # transformers' other spelling -> our field
    default_theta: ClassVar[float] = 10000.0
    subconfigs: ClassVar[Mapping[str, Callable[[Mapping[str, Any]], "Config"]]] = {}  # field -> how to read it

    architectures: tuple[str, ...] | None = None
    dtype: str | None = None
    id2label: FrozenDict | None = None
    label2id: FrozenDict | None = None
    problem_type: str | None = None
    output_hidden_states: bool | None = False
    output_attentions: bool | None = False
    return_dict: bool | None = True
    chunk_size_feed_forward: int = 0
    is_encoder_decoder: bool = False
    extra: FrozenDict = FrozenDict()  # carried for saving, never read

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._set(field.name, freeze(getattr(self, field.name)))
        for name, read in self.subconfigs.items():
            if not isinstance(getattr(self, name), (Config, types.NoneType)):
                self._set(name, read(getattr(self, name)))
        check_types(self)
        try:
            if self.id2label is not None:
                self._set("id2label", FrozenDict({int(k): v for k, v in self.id2label.items()}))
            self.resolve()
            if hasattr(self, "rope_parameters"):
                self._set("rope_parameters", freeze(read_rope(self)))
            check_types(self)
            self.validate()
        except (ArithmeticError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{type(self).__name__} holds values that fit no model: {error}") from error

    def resolve(self) -> None:
        """Fill fields whose default depends on other fields. Families override it."""

    def validate(self) -> None:
        """Raise ConfigError when fields contradict each other. Families override it."""

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def default(self, name: str, value: Any) -> None:
        """Set a field that is None; for use in `resolve`."""
        if getattr(self, name) is None:
            self._set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name in type(self).aliases:
            return getattr(self, type(self).aliases[name])
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    @property
    def num_labels(self) -> int:
        """How many classes a task head has; two when the config names none."""
        return 2 if self.id2label is None else len(self.id2label)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **self._normal(changes))

    @classmethod
    def upgrade(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Translate a family's old spellings before the fields are read. Families override it."""
        return raw

    def downgrade(self, written: dict[str, Any]) -> dict[str, Any]:
        """Add a family's old spellings to what is written. Families override it."""
        return written

    @classmethod
    def _normal(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        raw = {cls.aliases.get(k, k): v for k, v in raw.items()}
        labels = raw.pop("num_labels", None)
        if not isinstance(labels, (int, types.NoneType)):
            raise ConfigError(f"num_labels is {labels!r}; expected a number")
        named = raw.get("id2label")
        if labels is not None and not (isinstance(named, Mapping) and len(named) == labels):
            raw["id2label"] = {i: f"LABEL_{i}" for i in range(labels)}
            raw["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
        return raw

    @classmethod
    def from_json(cls, source: str | Path | Mapping[str, Any], **overrides: Any) -> Self:
        """Read a config.json, its folder, or its parsed content. Raises ConfigError and UnknownOption."""
        raw = dict(source) if isinstance(source, Mapping) else read_json(source)
        raw = cls.upgrade(cls._normal(cls._normal(decode_floats(raw)) | overrides))
        raw.pop("model_type", None)
        torch_dtype = raw.pop("torch_dtype", None)
        if raw.get("dtype") is None and torch_dtype is not None:
            raw["dtype"] = torch_dtype
        if raw.get("dtype") is not None:
            raw["dtype"] = str(raw["dtype"]).removeprefix("torch.")
        names = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        if "rope_parameters" in names:
            raw["rope_parameters"] = old_rope(cls, raw, names)
        extra = {k: v for k, v in raw.items() if k not in names}
        for key, value in extra.items():
            refuse_behavioural(cls, key, value)
        return cls(**{k: v for k, v in raw.items() if k in names}, extra=FrozenDict(extra))

    def to_json(self) -> dict[str, Any]:
        """Return what config.json holds, in the spellings of transformers 4 and 5."""
        skip = {"output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward"}
        out: dict[str, Any] = dict(thaw(self.extra))
        for field in dataclasses.fields(self):
            if field.name == "extra":
                continue
            value = getattr(self, field.name)
            inherited = field.name in {f.name for f in dataclasses.fields(Config)}
            if field.name in skip and value == field.default or inherited and value is None:
                continue
            out[field.name] = value.to_json() if isinstance(value, Config) else thaw(value)
        out["model_type"] = self.model_type
        if self.dtype is not None:
            out["torch_dtype"] = self.dtype
        if getattr(self, "rope_parameters", None) is not None:
            out |= write_rope(self)
        return encode_floats(self.downgrade(out))


def old_rope(cls: type[Config], raw: dict[str, Any], names: set[str]) -> dict[str, Any] | None:
    """Turn transformers 4's rope_theta, rope_scaling and partial_rotary_factor into rope_parameters."""
    # As in transformers, rope_scaling takes the place of rope_parameters where a file has both.
    rope = raw.pop("rope_scaling", None) or raw.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"rope_parameters (or rope_scaling) is {rope!r}; expected {{'rope_type': ...}}")
    rope = dict(rope)
    # A dict of dicts holds one entry for each kind of layer.
    entries = [k for k, v in rope.items() if isinstance(v, Mapping)]
    for key in ("rope_theta", "partial_rotary_factor"):
        value = raw.get(key) if key in names else raw.pop(key, None)
        if value is None:
            continue
        for name in entries:
            rope[name] = {key: value, **rope[name]}
        if not entries:
            rope.setdefault(key, value)
    return rope or None


def refuse_behavioural(cls: type[Config], key: str, value: Any) -> None:
    """Raise UnknownOption when a key that no field reads would change what the model computes."""
    if key not in BEHAVIOURAL or value in BEHAVIOURAL[key]:
        return
    if key == "layer_types" and set(value) <= UNIFORM_LAYERS:
        return
    raise UnknownOption(
        f"config key {key!r} is {value!r}, but {cls.model_type} does not implement it in jaxformers; "
        f"expected it to be absent or one of {list(BEHAVIOURAL[key])}. Remove the key if the checkpoint ignores it"
    )


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file, or config.json from a folder. Raises ConfigError."""
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; expected a Hugging Face config.json there") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{file} is not readable JSON ({error}); download or write it again") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} holds a {type(raw).__name__}; expected a JSON object")
    return raw


def read_optional(file: Path) -> dict[str, Any]:
    """The JSON object of a file, nothing if there is no such file. Raises ConfigError."""
    return read_json(file) if file.is_file() else {}


def decode_floats(value: Any) -> Any:
    """Read transformers' spelling of infinities and NaN: {"__float__": "Infinity"}."""
    if isinstance(value, Mapping):
        if set(value) == {"__float__"}:
            return float(str(value["__float__"]).replace("Infinity", "inf"))
        return {k: decode_floats(v) for k, v in value.items()}
    return [decode_floats(v) for v in value] if isinstance(value, (list, tuple)) else value


def encode_floats(value: Any) -> Any:
    """Write infinities and NaN as transformers 5 does, since JSON has none."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"__float__": {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")}
    if isinstance(value, Mapping):
        return {k: encode_floats(v) for k, v in value.items()}
    return [encode_floats(v) for v in value] if isinstance(value, list) else value


@cache
def allowed_types(cls: type[Config]) -> dict[str, tuple[type, ...]]:
    """The plain Python types each field accepts, read from its annotation."""
    out = {}
    for name, hint in typing.get_type_hints(cls).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kinds = [typing.get_origin(o) or o for o in options]
        if all(isinstance(k, type) for k in kinds):
            out[name] = tuple(kinds) + ((int,) if float in kinds else ())
    return out


def vocabulary(config: Any) -> int | None:
    """How many words a model knows; None where it reads none."""
    return getattr(getattr(config, "text_config", None) or config, "vocab_size", None)


def check_types(config: Config) -> None:
    """Raise ConfigError naming the first field whose value has the wrong type."""
    for name, kinds in allowed_types(type(config)).items():
        value = getattr(config, name, None)
        wrong_bool = isinstance(value, bool) and bool not in kinds and object not in kinds
        if not isinstance(value, kinds) or wrong_bool:
            expected = " or ".join(k.__name__ for k in kinds)
            raise ConfigError(
                f"{type(config).__name__}.{name} is {thaw(value)!r} ({type(value).__name__}); expected {expected}"
            )
