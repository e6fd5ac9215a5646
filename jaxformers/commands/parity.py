"""`jaxformers parity`: a checkpoint through PyTorch and through us; names the first module that differs."""

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxformers.export.compare import Report

EXAMPLES = """examples:
  jaxformers parity ./llama
  jaxformers parity ./bert --task MaskedLM --text "Paris is the [MASK] of France."
  jaxformers parity ./llama --dtype bfloat16 --tolerance 0.05
  jaxformers parity ./vit --json | jq .equal

Needs PyTorch and transformers: pip install 'jaxformers[test]'. Both models and all their activations are in memory.
The exit status is 0 when every field is equal, 1 when one differs, 2 for an error."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "parity",
        help="compare a checkpoint's outputs with PyTorch's",
        description="Run a checkpoint with PyTorch transformers (float32, eager attention) and here, and compare.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="checkpoint folder or hub name")
    parser.add_argument("--task", help='head to load: "CausalLM" for AutoModelForCausalLM (default: the one saved)')
    parser.add_argument("--text", action="append", help="text to run; repeat it for a batch (default: random inputs)")
    parser.add_argument("--length", type=int, default=16, help="tokens, or frames of audio (default: 16)")
    parser.add_argument("--batch", type=int, default=2, help="examples (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: 0)")
    parser.add_argument("--scan", action="store_true", help="load with layers stacked, as for training")
    parser.add_argument(
        "--dtype", default="float32", help="of our parameters; PyTorch's are float32 (default: float32)"
    )
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest relative error (default: 1e-4)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load twice, run twice, compare, print. Returns 0 for equal, 1 for different."""
    for name in ("length", "batch"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; expected 1 or more")
    from jaxformers.export import torch_model
    from jaxformers.export.compare import compare
    from jaxformers.export.inputs import random_inputs
    from jaxformers.hub.download import resolve
    from jaxformers.hub.model import Model

    path = resolve(options.model)
    task = {"task": options.task.removeprefix("AutoModelFor")} if options.task else {}
    model = Model.from_pretrained(path, dtype=options.dtype, scan=options.scan, **task)
    theirs = torch_model.load(model.blueprint.architecture, path)
    if options.text:
        inputs = read_texts(path, options.text)
    else:
        inputs = random_inputs(theirs, batch=options.batch, length=options.length, seed=options.seed)
    report = compare(theirs, model, inputs, tolerance=options.tolerance)
    if options.json:
        facts = {"model": options.model, "class": model.blueprint.architecture, "tolerance": options.tolerance}
        print(json.dumps(facts | {"equal": report.equal} | dataclasses.asdict(report)))
    else:
        show(f"{options.model}: {model.blueprint.architecture}", report)
    return 0 if report.equal else 1


def read_texts(path: Any, texts: list[str]) -> dict[str, Any]:
    """The texts as token ids, padded to one length."""
    from jaxformers.hub.auto_tokenizer import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    return dict(tokenizer(texts, padding=len(texts) > 1, return_tensors="np"))


def show(title: str, report: "Report") -> None:
    """Print the table, and in words where the models part."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = Console()
    table = Table("field", title=escape(title), title_justify="left", show_edge=False)
    for column in ("entries", "max abs error", "relative error"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for field in report.fields:
        verdict = "equal" if field.equal else "differs" if field.entries == 1 else f"differs from entry {field.at} on"
        table.add_row(field.name, str(field.entries), f"{field.absolute:.1e}", f"{field.relative:.1e}", verdict)
    out.print(table)
    if not report.fields:
        out.print("PyTorch returned nothing to compare")
    elif report.first is None:
        out.print("equal")
    else:
        out.print(escape(explain(report)), soft_wrap=True)


def explain(report: "Report") -> str:
    """The first difference in a sentence."""
    first = report.first
    if first is None:
        return "equal"
    if first.module is None:
        where = f"in {first.layer}" if first.layer else "outside the layers"
        return f"the first difference is {where}, in what no module answers for alone (experts), or in the scan"
    reads = (
        "what it reads agrees, so look at its weights or formula" if first.input_equal else "what it reads differs too"
    )
    return f"the first module that differs is {first.module} ({first.theirs}), by {first.relative:.1e}: {reads}"
