"""`jaxformers quantize`: a checkpoint with its matrices as small integers or 8-bit floats, and what that costs them."""

import argparse
import shutil
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  jaxformers quantize ./llama --to int8 --out ./llama-int8
  jaxformers quantize ./llama --to int4 --group-size 64 --skip down_proj --out ./llama-int4
  jaxformers quantize ./llama --to fp8
  jaxformers quantize ./llama --to int4 --json | jq '.rows | max_by(.error)'

Without --out nothing is written: the table of errors is printed. The folder is in the compressed-tensors layout, which
jaxformers, transformers and vLLM load; what else lies in the model's folder (its tokenizer, ...) is copied."""

SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
WRITTEN = ("config.json", "generation_config.json")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "quantize",
        help="make a quantised checkpoint, and show the errors",
        description="Round a model's matrices to 8 or 4 bits without calibration, show each one's error, and save it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="checkpoint folder or hub name")
    parser.add_argument("--to", required=True, choices=("int8", "int4", "fp8"), help="what to round to")
    parser.add_argument("--out", help="the folder to write (default: none)")
    parser.add_argument("--group-size", type=int, help="inputs that share a scale (default: 128 for int4, else all)")
    parser.add_argument("--skip", action="append", default=[], metavar="PATTERN", help="leave such modules (a regex)")
    parser.add_argument("--heads", action="store_true", help="quantise heads as well, such as the language-model head")
    parser.add_argument("--task", help="the head, such as CausalLM (default: what the config was saved with)")
    parser.add_argument("--dtype", help="of what is not quantised, such as bfloat16 (default: the checkpoint's)")
    parser.add_argument("--every", action="store_true", help="a line for each layer, where equal ones share one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, round, compare, save, print."""
    from jaxformers.hub.download import resolve
    from jaxformers.hub.model import Model
    from jaxformers.quantization.errors import quantization_errors
    from jaxformers.quantization.quantize import quantize

    folder = resolve(options.model)
    if options.out and Path(options.out).resolve() == folder.resolve():
        raise ValueError(f"--out {options.out} is the model itself; choose another folder")
    model = Model.from_pretrained(folder, task=options.task or "auto", dtype=options.dtype)
    group = "auto" if options.group_size is None else options.group_size
    quantized = quantize(model, options.to, group_size=group, skip=options.skip, heads=options.heads)
    if options.out:
        quantized.save_pretrained(options.out)
        copy_companions(folder, Path(options.out))
    show(quantization_errors(model, quantized), options)


def copy_companions(source: Path, out: Path) -> None:
    """Copy what lies beside the weights: tokenizers, processors, how to pool."""
    if not source.is_dir():
        return
    for file in sorted(source.rglob("*")):
        place = out / file.relative_to(source)
        wanted = file.suffix in SUFFIXES and not file.name.endswith(".index.json") and place.name not in WRITTEN
        if file.is_file() and (wanted or place.parent != out and file.suffix == ".json"):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


def show(found: Any, options: argparse.Namespace) -> None:
    """Print the table, or JSON."""
    import json

    if options.json:
        print(json.dumps(facts(found)))
        return
    from rich.console import Console

    from jaxformers.quantization.errors_shown import table

    Console().print(table(found, every=options.every))
    if options.out:
        print(f"written: {options.out}")


def facts(found: Any) -> dict[str, Any]:
    """The table for programs."""
    rows = [
        {
            "path": row.path,
            "shape": row.shape,
            "kind": row.kind,
            "group_size": row.group_size,
            "error": row.error,
            "bits": row.bits,
            "bytes_before": row.before,
            "bytes_after": row.after,
        }
        for row in found
    ]
    return {"bytes_before": found.bytes_before, "bytes_after": found.bytes_after, "rows": rows}
