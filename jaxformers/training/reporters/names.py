"""What all reporters agree on: the names of what is logged, and the settings of a run."""

from typing import Any

from jaxformers.training.trainer_state import plain


def grouped(logs: dict[str, Any]) -> dict[str, Any]:
    """transformers' names for trackers: eval/loss, test/accuracy, and train/ before all others."""
    out = {}
    for name, value in logs.items():
        part, _, rest = name.partition("_")
        out[f"{part}/{rest}" if part in ("eval", "test") and rest else f"train/{name}"] = value
    return out


def settings(args: Any, model: Any) -> dict[str, Any]:
    """The arguments of a run over its model's config, as JSON values."""
    config = getattr(model, "config", None)
    return plain({**({} if config is None else config.to_json()), **args.to_dict()})
