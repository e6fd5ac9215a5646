"""Configs of models that can be the backbone of others: names of their stages, and which of them are returned."""

from dataclasses import dataclass
from typing import Any, Self

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StagedConfig(Config):
    """out_features and out_indices name the same stages; either follows from the other, and the last is the default."""

    stage_names: tuple | None = None
    out_features: tuple | None = None
    out_indices: tuple | None = None

    @classmethod
    def from_json(cls, source: Any, **overrides: Any) -> Self:
        return super().from_json(source, **one_of(overrides))

    def replace(self, **changes: Any) -> Self:
        return super().replace(**one_of(changes))

    def name_stages(self, count: int) -> None:
        """Fill the names of `count` stages and line up the two ways to choose some. Raises ConfigError."""
        names = ("stem", *(f"stage{i}" for i in range(1, count + 1)))
        features, indices = self.out_features, self.out_indices
        if unknown := [f for f in features or () if f not in names]:
            raise ConfigError(f"out_features names {unknown[0]!r}; the stages are {', '.join(names)}")
        if wrong := [i for i in indices or () if not -len(names) <= i < len(names)]:
            raise ConfigError(f"out_indices holds {wrong[0]}; expected numbers from 0 to {len(names) - 1}")
        if features is None:
            indices = (len(names) - 1,) if indices is None else indices
            features = tuple(names[i] for i in indices)
        indices = tuple(names.index(f) for f in features) if indices is None else indices
        if features != tuple(names[i] for i in indices):
            raise ConfigError(
                f"out_features {features} and out_indices {indices} name different stages; give one of them"
            )
        if features != tuple(n for n in names if n in features):
            raise ConfigError(f"out_features {features} must be distinct and in the order of the stages")
        self._set("stage_names", names)
        self._set("out_features", features)
        self._set("out_indices", indices)

    @property
    def out_places(self) -> tuple[int, ...]:
        """Indices of the chosen stages, counted from the first."""
        return tuple(self.stage_names.index(f) for f in self.out_features)  # type: ignore[union-attr]


def one_of(changes: dict[str, Any]) -> dict[str, Any]:
    """Let a new choice of stages by one of the two fields undo the other."""
    pair = ("out_features", "out_indices")
    given = [name for name in pair if changes.get(name) is not None]
    return {**dict.fromkeys(pair), **changes} if len(given) == 1 else changes


def drop_rates(rate: float, depths: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Rates of dropping whole branches, growing evenly from 0 to `rate` over all layers; one tuple for each stage."""
    count = sum(depths)
    every = [rate * i / max(count - 1, 1) for i in range(count)]
    starts = [sum(depths[:n]) for n in range(len(depths))]
    return tuple(tuple(every[a : a + depth]) for a, depth in zip(starts, depths, strict=True))
