"""The summary of a run in its output folder: summary.json for programs, summary.md with plots for people."""

import json
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxformers.core.errors import MissingExtra
from jaxformers.training.callbacks.callback import TrainerCallback
from jaxformers.training.plots import plot_run
from jaxformers.training.trainer_state import plain

log = logging.getLogger("jaxformers")
ROWS = 12  # lines of the table of logs, spread over the run


class SummaryCallback(TrainerCallback):
    """Writes summary.json, summary.md and plots/*.png when training is over; without matplotlib, no plots."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            plots = plot_run(state.log_history, folder / "plots")
        except MissingExtra as error:
            log.warning("the summary has no plots: %s", error)
            plots = []
        facts = plain(summarise(args, state, kwargs.get("model")))
        (folder / "summary.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        names = [str(path.relative_to(folder)) for path in plots]
        (folder / "summary.md").write_text(as_markdown(facts, names), encoding="utf-8")


def summarise(args: Any, state: Any, model: Any) -> dict[str, Any]:
    """What is worth keeping of a run."""
    logged = {name: value for entry in state.log_history for name, value in entry.items()}
    config = getattr(model, "config", None)
    return {
        "model": getattr(config, "model_type", None),
        "task": getattr(model, "task", None),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model)),
        "steps": state.global_step,
        "epochs": state.epoch,
        "best": {"metric": args.metric_for_best_model, "value": state.best_metric, "step": state.best_global_step},
        "last": {name: value for name, value in logged.items() if name not in ("step", "epoch")},
        "total_flos": state.total_flos,
        "input_tokens": state.num_input_tokens_seen,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "versions": {name: version(name) for name in ("jaxformers", "jax", "flax", "optax")}
        | {"python": platform.python_version()},
        "arguments": args.to_dict(),
        "history": state.log_history,
    }


def as_markdown(facts: dict[str, Any], plots: list[str]) -> str:
    """The facts as a page."""
    lines = [f"# {facts['model']} ({facts['task']})", ""]
    simple = ("parameters", "steps", "epochs", "total_flos", "input_tokens", "devices", "processes")
    lines += ["| | |", "|---|---|", *(f"| {name.replace('_', ' ')} | {shown(facts[name])} |" for name in simple)]
    if facts["best"]["value"] is not None:
        best = facts["best"]
        lines.append(f"| best {best['metric']} | {shown(best['value'])} at step {best['step']} |")
    lines += ["", "## Last values", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {shown(value)} |" for name, value in facts["last"].items()]
    lines += ["", "## Course", "", *table(facts["history"]), ""]
    lines += [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in plots]
    changed = {name: value for name, value in facts["arguments"].items() if value not in (None, [], {}, "")}
    lines += ["", "## Arguments", "", "```json", json.dumps(changed, indent=2), "```", ""]
    return "\n".join(lines)


def table(history: list[dict[str, Any]]) -> list[str]:
    """Losses over the run, as many rows as are read at a glance."""
    rows = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    names = ("step", "epoch", "loss", "eval_loss", "grad_norm", "learning_rate")
    every = max(1, len(rows) // ROWS)
    chosen = [row for place, row in enumerate(rows) if place % every == 0 or row is rows[-1]]
    cells = [" | ".join(shown(row.get(name, "")) for name in names) for row in chosen]
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *(f"| {line} |" for line in cells)]


def shown(value: Any) -> str:
    """A value for people: whole numbers with commas, others with four digits."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{int(value):,}" if isinstance(value, int | float) else str(value)
