"""A learning rate that falls when a metric stops improving; decided on the host, after each evaluation."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from jaxformers.core.errors import ConfigError


@dataclass
class ReduceOnPlateau:
    """PyTorch's ReduceLROnPlateau: the same arguments, defaults and decisions.

    `rate = plateau.update(metric)` after an evaluation, then `state = set_learning_rate(state, rate)`.
    """

    peak: float
    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    # Where it stands
    rate: float | None = None
    best: float | None = None
    bad: int = 0
    waiting: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(f"factor must lie between 0 and 1, found {self.factor}")
        if self.mode not in ("min", "max") or self.threshold_mode not in ("rel", "abs"):
            raise ConfigError(
                f"mode is min or max, threshold_mode rel or abs; found {self.mode!r}, {self.threshold_mode!r}"
            )
        self.rate = self.peak if self.rate is None else self.rate

    def improves(self, metric: float) -> bool:
        """Whether a metric is better than the best by more than the threshold."""
        if self.best is None:
            return metric == metric  # NaN never is
        sign = -1.0 if self.mode == "min" else 1.0
        margin = self.threshold * self.best if self.threshold_mode == "rel" else self.threshold
        return sign * metric > sign * (self.best + sign * margin)

    def update(self, metric: float) -> float:
        """Take an evaluation's metric; return the learning rate from here on."""
        assert self.rate is not None
        if self.improves(metric):
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.waiting > 0:
            self.waiting, self.bad = self.waiting - 1, 0
        if self.bad > self.patience:
            lower = max(self.rate * self.factor, self.min_lr)
            if self.rate - lower > self.eps:
                self.rate = lower
            self.waiting, self.bad = self.cooldown, 0
        return self.rate

    def state(self) -> dict[str, Any]:
        """Where it stands, as JSON."""
        return {name: asdict(self)[name] for name in ("rate", "best", "bad", "waiting")}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name, value in state.items():
            setattr(self, name, value)
