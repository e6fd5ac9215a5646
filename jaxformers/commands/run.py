"""`jaxformers run TASK`: any pipeline, from the shell."""

import argparse
import json
import sys
from typing import Any

EXAMPLES = """examples:
  jaxformers run text-classification --model ./sentiment "a fine day"
  jaxformers run token-classification --model ./ner "Ada lives in London" --set aggregation_strategy=simple
  jaxformers run question-answering --model ./qa '{"question": "who?", "context": "Ada wrote it."}'
  jaxformers run fill-mask --model ./bert "Paris is the [MASK] of France." --set top_k=3
  cat texts.txt | jaxformers run summarization --model ./bart - --set max_new_tokens=60

Each input is a text, a file name, a URL, or a JSON object; - reads one from each line of stdin. Results are JSON, one
line for each input. `jaxformers run --list` names the tasks."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "run",
        help="run any pipeline",
        description="Run the pipeline of a task and print what it returns as JSON.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", nargs="?", help="the task, as in jaxformers.pipeline")
    parser.add_argument("input", nargs="*", help="inputs; - reads stdin, one on each line")
    parser.add_argument("--model", help="checkpoint folder or hub name (default: the task's usual model)")
    parser.add_argument("--dtype", help="dtype of the parameters, such as bfloat16")
    parser.add_argument("--quantize", choices=("int8", "int4", "fp8"), help="round its matrices while they are read")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the task")
    parser.add_argument("--batch-size", type=int, default=8, help="inputs computed together (default: 8)")
    parser.add_argument("--list", action="store_true", help="print the tasks and end")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int | None:
    """Load, run, print. Returns 2 when an input failed; the others' results are printed all the same."""
    from jaxformers.pipelines.arguments import loading_keywords, print_json
    from jaxformers.pipelines.tasks import TASKS, pipeline

    if options.list:
        print("\n".join(TASKS))
        return None
    if options.task is None or not options.input:
        raise ValueError("name a task and an input; `jaxformers run --list` names the tasks")
    given = dict(read_setting(text) for text in options.set)
    inputs = sys.stdin.read().splitlines() if options.input == ["-"] else options.input
    pipe = pipeline(options.task, options.model, **loading_keywords(options))
    failed = 0
    items = [read_input(text) for text in inputs if text.strip()]
    for result in pipe(items, batch_size=options.batch_size, errors="return", **given):
        if isinstance(result, Exception):
            failed += 1
            print(f"jaxformers run: error: {' '.join(str(result).split())}", file=sys.stderr)
            print_json({"error": str(result)})
        else:
            print_json(result)
    return 2 if failed else None


def read_setting(text: str) -> tuple[str, Any]:
    """A name and its value, JSON where it can be read as that."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text!r} has no value; expected NAME=VALUE")
    return name.strip().replace("-", "_"), read_input(value, ("{", "[", '"', "true", "false", "null"), numbers=True)


def read_input(text: str, starts: tuple[str, ...] = ("{", "["), numbers: bool = False) -> Any:
    """An input: a JSON object or list where the text begins like one, else the text itself."""
    if text.startswith(starts) or (numbers and text[:1] in "-.0123456789" and text):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
