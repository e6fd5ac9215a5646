"""`jaxformers search`: the lines of a file that answer a question best."""

import argparse
import json
from pathlib import Path

EXAMPLES = """examples:
  jaxformers search --model ./minilm --corpus notes.txt "how do I read a zip file?"
  jaxformers search --model ./minilm --corpus faq.jsonl --field question --top 3 --json "refund" "delivery"

The corpus' vectors are kept beside it in CORPUS.vectors.npz and made again when the corpus or the model changes."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "search",
        help="find the lines of a file that answer a question",
        description="Semantic search: rank the lines of a file by meaning.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("query", nargs="+", help="one or more questions")
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--corpus", required=True, help="one text per line, or JSON lines with --field")
    parser.add_argument("--field", help="the JSON field that holds the text (default for .jsonl files: text)")
    parser.add_argument("--top", type=int, default=5, help="answers for each question (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per question")
    parser.add_argument("--batch-size", type=int, default=32, help="texts computed together (default: 32)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Build or read the index, answer, print."""
    if options.top < 1:
        raise ValueError(f"--top is {options.top}; expected 1 or more")
    if options.corpus == "-":
        raise ValueError("--corpus is -; expected a file, because its vectors are kept beside it")

    from jaxformers.pipelines.texts import read_texts

    lines = read_texts(options.corpus, options.field)

    from jaxformers.pipelines.embed import Embedder
    from jaxformers.pipelines.search import TextIndex

    corpus = Path(options.corpus)
    cache = corpus.with_name(corpus.name + ".vectors.npz")
    embedder = Embedder.from_pretrained(options.model)
    index = TextIndex.build(embedder, [text for _, text in lines], cache, options.batch_size)
    for query, hits in zip(options.query, index.search(options.query, options.top), strict=True):
        if options.json:
            answers = [{"score": hit.score, "line": lines[hit.row][0], "text": hit.text} for hit in hits]
            print(json.dumps({"query": query, "answers": answers}, ensure_ascii=False))
            continue
        print(query)
        for hit in hits:
            print(f"  {hit.score:6.3f}  line {lines[hit.row][0]}: {hit.text}")
