"""`jaxformers embed`: one vector per line of text."""

import argparse
import json
import sys

EXAMPLES = """examples:
  jaxformers embed --model ./minilm sentences.txt --out vectors.npy
  echo "a single sentence" | jaxformers embed --model ./minilm -
  jaxformers embed --model ./minilm reviews.jsonl --field review --batch-size 64 --out reviews.npy

Row i of the array is the i-th text; blank lines are left out."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "embed",
        help="turn lines of text into vectors",
        description="Turn lines of text into vectors, pooled as the checkpoint's own files say.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="one text per line, or JSON lines with --field; - reads stdin")
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--field", help="the JSON field that holds the text (default for .jsonl files: text)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--out", help="write a float32 array [texts, width] to this .npy file")
    output.add_argument("--json", action="store_true", help="print one JSON object per text to stdout (the default)")
    parser.add_argument("--batch-size", type=int, default=32, help="texts computed together (default: 32)")
    parser.add_argument("--max-length", type=int, help="cut texts to this many tokens (default: the checkpoint's)")
    parser.add_argument("--prompt-name", help="put one of the checkpoint's own prompts before every text")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read, embed, write."""
    from jaxformers.pipelines.texts import read_texts

    texts = [text for _, text in read_texts(options.file, options.field)]

    from jaxformers.pipelines.embed import Embedder

    embedder = Embedder.from_pretrained(options.model, max_length=options.max_length)
    vectors = embedder.encode(texts, options.batch_size, prompt_name=options.prompt_name)
    if options.out:
        import numpy as np

        with open(options.out, "wb") as out:  # np.save would add .npy to another name
            np.save(out, vectors)
        print(f"{options.out}: {vectors.shape[0]} vectors of width {vectors.shape[1]}", file=sys.stderr)
        return
    for text, vector in zip(texts, vectors.tolist(), strict=True):
        print(json.dumps({"text": text, "embedding": vector}, ensure_ascii=False))
