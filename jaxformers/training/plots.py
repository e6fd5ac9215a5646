"""Plots of a run as PNG files: loss, learning rate, gradient norm and throughput over steps."""

from pathlib import Path
from typing import Any

from jaxformers.core.extras import require

# file: (title of the y axis, logarithmic, the logged names that it shows)
PLOTS: dict[str, tuple[str, bool, tuple[str, ...]]] = {
    "loss": ("loss", False, ("loss", "eval_loss")),
    "learning_rate": ("learning rate", False, ("learning_rate",)),
    "grad_norm": ("gradient norm", True, ("grad_norm",)),
    "throughput": ("per second", False, ("tokens_per_second", "samples_per_second")),
}
SIZE = (7.0, 4.0)  # inches
DPI = 120


def canvas() -> tuple[Any, Any]:
    """A figure and its axes that need no display. Raises MissingExtra when matplotlib is not installed."""
    require("matplotlib", extra="train", purpose="plotting a run")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def series(history: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one logged name."""
    found = [(entry["step"], entry[name]) for entry in history if isinstance(entry.get(name), int | float)]
    return [step for step, _ in found], [value for _, value in found]


def plot_run(history: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what was logged; returns the files, none for what was never logged."""
    made = []
    for file, (label, logarithmic, names) in PLOTS.items():
        lines = {name: values for name in names if (values := series(history, name))[0]}
        if file == "throughput":  # tokens where they are counted, samples else: not both on one axis
            lines = dict(list(lines.items())[:1])
        if lines:
            folder.mkdir(parents=True, exist_ok=True)
            made.append(draw(folder / f"{file}.png", label, logarithmic, lines))
    return made


def draw(path: Path, label: str, logarithmic: bool, lines: dict[str, tuple[list[int], list[float]]]) -> Path:
    """One plot of lines over steps."""
    figure, axes = canvas()
    for name, (steps, values) in lines.items():
        axes.plot(steps, values, marker="o" if len(steps) < 40 else None, markersize=3, label=name)
    axes.set(xlabel="step", ylabel=label)
    if logarithmic and all(value > 0 for _, values in lines.values() for value in values):
        axes.set_yscale("log")
    axes.legend(frameon=False)
    figure.savefig(path)
    return path
