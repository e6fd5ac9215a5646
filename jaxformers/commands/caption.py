"""`jaxformers caption`: what a vision-language model says about pictures."""

import argparse

EXAMPLES = """examples:
  jaxformers caption --model ./llava cat.jpg
  jaxformers caption --model ./llava --prompt "USER: <image>\\nWhat is the cat doing? ASSISTANT:" cat.jpg
  jaxformers caption --model ./llava --json *.jpg

<image> in the prompt is where the model sees the picture; without it the picture comes first."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    from jaxformers.pipelines.arguments import add_model, add_sampling

    parser = subparsers.add_parser(
        "caption",
        help="describe pictures",
        description="Describe pictures, or ask about them, with a vision-language model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("picture", nargs="+", help="picture files or URLs")
    add_model(parser)
    parser.add_argument(
        "--prompt", default="Describe the image.", help="what to ask (default: to describe the picture)"
    )
    add_sampling(parser, 64)
    parser.add_argument("--json", action="store_true", help="print one JSON object per picture")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, look, write."""
    from jaxformers.pipelines.arguments import check_files, loading_keywords, print_json, sampling_keywords

    check_files(options.picture)
    from jaxformers.pipelines.tasks import pipeline

    pipe = pipeline("image-to-text", options.model, **loading_keywords(options))
    for name in options.picture:
        (found, *_) = pipe(name, prompt=options.prompt, **sampling_keywords(options))
        if options.json:
            print_json({"picture": name, "caption": found["generated_text"]})
        else:
            print(f"{name}\t{found['generated_text'].strip()}" if len(options.picture) > 1 else found["generated_text"])
