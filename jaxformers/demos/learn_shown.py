"""The second part of the demo as it is seen: what is learnt from, a bar with the loss, perplexities, and code."""

import sys
import time
from pathlib import Path

import jax

from jaxformers.demos.figures import Figures
from jaxformers.demos.learn import PROMPTS, Form, Learnt, complete, learn


def show(form: Form, folder: Path) -> None:
    """Learn, and say what came of it and how to go on."""
    figures = Figures()
    print(
        f"\na llama that learns from the source of Python {sys.version.split()[0]}'s standard library", file=sys.stderr
    )
    start = time.perf_counter()
    learnt = learn(form, folder, figures)
    with figures.timed("write") as remark:
        written = complete(learnt.model, learnt.tokenizer)
        remark.append(f"{len(PROMPTS)} prompts, compilation included")
    figures.add("all", time.perf_counter() - start, f"{form.steps} steps of {form.rows * form.length} tokens")
    show_code(written)
    show_scores(learnt)
    figures.show()
    print(f'\nmodel and tokenizer are in {folder}; go on with\n  jaxformers generate --model {folder} "def main("')


def show_code(written: list[str]) -> None:
    """Print what was written, each prompt bright and the rest as code."""
    from rich.console import Console
    from rich.text import Text

    out = Console()
    for prompt, text in zip(PROMPTS, written, strict=True):
        out.rule(style="dim")
        rest = text.removeprefix(prompt)
        out.print(Text(prompt, style="bold") + Text(rest), "")


def show_scores(learnt: Learnt) -> None:
    """Print perplexities of the modules that were held out."""
    from rich.console import Console
    from rich.table import Table

    size = sum(leaf.size for leaf in jax.tree.leaves(learnt.model))
    title = f"perplexity on held-out modules, {size / 1e6:.2f} M parameters"
    table = Table("", "per token", "per byte", "bits per byte", title=title, title_justify="left", show_edge=False)
    for name, score in (
        ("before", learnt.before),
        ("by frequency alone", learnt.by_frequency),
        ("after", learnt.after),
    ):
        table.add_row(name, f"{score.perplexity:.1f}", f"{score.per_byte:.2f}", f"{score.bits_per_byte:.2f}")
    Console().print(table, "")
