"""A run as a TOML file: sections for the model, its data, the mesh, the arguments and LoRA, read and written.

[tiny] holds tables of the other sections, whose values take the place of theirs in a small form of the run.
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from jaxformers.core.errors import ConfigError
from jaxformers.training.arguments import TrainingArguments

SECTIONS = ("model", "data", "mesh", "training", "lora", "tiny")
BESIDE_AXES = ("rules", "dcn")  # what [mesh] holds beside sizes of axes


@dataclass
class Recipe:
    """The sections of a run's file. [mesh] holds axis sizes, `rules` and, for several slices, `dcn`."""

    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    mesh: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path, changes: Iterable[str] = (), *, tiny: bool = False) -> Self:
        """Read a file, perhaps in its tiny form, then apply changes such as "training.learning_rate=1e-4".

        Raises ConfigError.
        """
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
        if strange := sorted(raw.keys() - set(SECTIONS)):
            raise ConfigError(f"{path} has [{strange[0]}]; {expected(strange[0], SECTIONS)}")
        for name, section in raw.items():
            if not isinstance(section, dict):
                raise ConfigError(f"{path} has {name} = {section!r} outside of a section")
        if tiny:
            raw = smaller(path, raw)
        for change in changes:
            apply(raw, change)
        config = raw.get("model", {}).get("config")
        if isinstance(config, str) and (Path(path).parent / config).exists():  # a path beside the recipe
            raw["model"]["config"] = str(Path(path).parent / config)
        return cls(**raw)

    @classmethod
    def of(cls, args: TrainingArguments, **sections: dict[str, Any]) -> Self:
        """The recipe of arguments: those that differ from their defaults, the mesh in its own section."""
        plain = TrainingArguments()
        changed = {
            f.name: getattr(args, f.name)
            for f in dataclasses.fields(args)
            if getattr(args, f.name) != getattr(plain, f.name) and f.name not in ("mesh", "rules", "hub_token")
        }
        mesh = dict(args.mesh) if isinstance(args.mesh, dict) else {}
        if args.rules != plain.rules:
            mesh["rules"] = args.rules
        return cls(training=changed, mesh=mesh, **sections)

    def arguments(self) -> TrainingArguments:
        """The arguments of the run. Raises ConfigError for names and values that it cannot have."""
        given = dict(self.training)
        axes = {name: size for name, size in self.mesh.items() if name not in BESIDE_AXES}
        if bad := [name for name, size in axes.items() if not isinstance(size, int)]:
            raise ConfigError(
                f"[mesh] {bad[0]} = {axes[bad[0]]!r}: expected the size of an axis, or -1 for what is left"
            )
        if axes:
            given["mesh"] = axes | ({"dcn": self.mesh["dcn"]} if "dcn" in self.mesh else {})
        if "rules" in self.mesh:
            given["rules"] = self.mesh["rules"]
        return TrainingArguments(**given)

    def write(self, path: str | Path) -> None:
        """Write the file; `read` gives an equal recipe."""
        Path(path).write_text(self.to_toml(), encoding="utf-8")

    def to_toml(self) -> str:
        """The file's text."""
        return "\n".join(table(name, getattr(self, name)) for name in SECTIONS if getattr(self, name))


def smaller(path: str | Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The sections with what [tiny] puts in place; a mesh there replaces the whole mesh."""
    if not raw.get("tiny"):
        raise ConfigError(f"{path} has no tiny form: its [tiny] section is missing")
    changes = dict(raw["tiny"])
    if strange := sorted(changes.keys() - set(SECTIONS) | changes.keys() & {"tiny"}):
        raise ConfigError(f"{path} has [tiny.{strange[0]}]; {expected(strange[0], SECTIONS[:-1])}")
    out = {name: section for name, section in raw.items() if name != "tiny"}
    if "mesh" in changes:
        out["mesh"] = changes.pop("mesh")
    return merged(out, changes)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables joined, those above winning value by value."""
    both = {k: merged(below[k], v) for k, v in above.items() if isinstance(v, dict) and isinstance(below.get(k), dict)}
    return {**below, **above, **both}


def apply(raw: dict[str, Any], change: str) -> None:
    """Set one value by its dotted name; the value is TOML, or a text where it is not."""
    name, equals, text = change.partition("=")
    path = name.strip().split(".")
    if not equals or len(path) < 2 or path[0] not in SECTIONS:
        raise ConfigError(
            f"--set {change!r} is not understood; expected section.name=value, {expected(path[0], SECTIONS)}"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in path[:-1]:
        raw = raw.setdefault(part, {})
    raw[path[-1]] = value


def expected(name: str, known: Iterable[str]) -> str:
    """What to say beside a name that is unknown."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def table(name: str, values: dict[str, Any]) -> str:
    """A TOML table; tables in it come after its own values."""
    inner = {key: value for key, value in values.items() if isinstance(value, dict) and value}
    lines = [f"{key_of(k)} = {literal(v)}\n" for k, v in values.items() if k not in inner and v is not None and v != {}]
    own = [f"[{name}]\n", *lines] if lines or not inner else []
    return "".join(own) + "".join("\n" + table(f"{name}.{key_of(key)}", value) for key, value in inner.items())


def key_of(name: str) -> str:
    """A key, quoted where TOML asks for it."""
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def literal(value: Any) -> str:
    """A value as TOML writes it. Raises ConfigError for what it has no form for."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key_of(k)} = {literal(v)}" for k, v in value.items()) + "}"
    raise ConfigError(f"{value!r} cannot be written to TOML: expected texts, numbers, lists and tables of them")
