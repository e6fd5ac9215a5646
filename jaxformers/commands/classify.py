"""`jaxformers classify`: labels for lines of text or for pictures."""

import argparse
from typing import Any

EXAMPLES = """examples:
  jaxformers classify --model ./sentiment reviews.txt
  echo "what a day" | jaxformers classify --model ./sentiment -
  jaxformers classify --model ./vit --top 3 cat.jpg dog.png
  jaxformers classify --model ./bart-mnli --labels sport,politics,music news.txt
  jaxformers classify --model ./clip --labels "a cat,a dog" photo.jpg --json

Texts come from a file with one on each line, or from stdin; pictures are named one by one. The model's type decides."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    from jaxformers.pipelines.arguments import add_model

    parser = subparsers.add_parser(
        "classify",
        help="label texts or pictures",
        description="Label texts, pictures or sounds, with the model's own labels or with any words.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", nargs="+", help="a text file, - for stdin, or pictures or sounds")
    add_model(parser)
    parser.add_argument("--labels", help="words to choose from, separated by commas (zero-shot)")
    parser.add_argument("--top", type=int, default=1, help="labels for each input (default: 1)")
    parser.add_argument("--batch-size", type=int, default=8, help="inputs computed together (default: 8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per input")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, label, print."""
    from jaxformers.pipelines.arguments import check_files, lines_of, loading_keywords, print_json
    from jaxformers.pipelines.tasks import pipeline

    if options.top < 1:
        raise ValueError(f"--top is {options.top}; expected 1 or more")
    task = chosen_task(options.model, bool(options.labels))
    texts = task in ("text-classification", "zero-shot-classification")
    if texts and len(options.input) != 1:
        raise ValueError(f"{options.model} reads texts: name one file of lines, or - for stdin")
    if not texts:
        check_files(options.input)
    inputs = list(lines_of(options.input[0])) if texts else list(options.input)
    pipe = pipeline(task, options.model, **loading_keywords(options))
    given = {"candidate_labels": options.labels} if options.labels else {"top_k": options.top}
    if texts and not options.labels:
        given["truncation"] = True
    results = pipe(inputs, batch_size=options.batch_size, **given)
    for name, result in zip(inputs, results, strict=True):
        found = best_labels(result, options.top)
        if options.json:
            print_json({"input": name, "labels": found})
        else:
            print("\t".join([", ".join(f"{x['label']} {x['score']:.3f}" for x in found), name]), flush=True)


def chosen_task(model: str, labels: bool) -> str:
    """The task that this model is for."""
    from jaxformers.hub.pretrained import load_config
    from jaxformers.models import family_of

    tasks = family_of(load_config(model).model_type).tasks
    order = (
        ("ZeroShotImageClassification", "zero-shot-image-classification", True),
        ("ImageClassification", "image-classification", False),
        ("AudioClassification", "audio-classification", False),
        ("SequenceClassification", "zero-shot-classification" if labels else "text-classification", labels),
    )
    for head, task, wants in order:
        if head in tasks and wants == labels:
            return task
    what = "words of your own" if labels else "labels of its own"
    raise ValueError(f"{model} cannot classify by {what}; it has heads for {', '.join(tasks)}")


def best_labels(result: Any, top: int) -> list[dict[str, Any]]:
    """The first labels of whatever form a task's results have."""
    if isinstance(result, dict) and "labels" in result:
        pairs = zip(result["labels"], result["scores"], strict=True)
        return [{"label": label, "score": score} for label, score in pairs][:top]
    return list(result if isinstance(result, list) else [result])[:top]
