"""`jaxformers generate`: a prompt continued, as it is written."""

import argparse
import sys

EXAMPLES = """examples:
  jaxformers generate --model ./llama "Once upon a time"
  jaxformers generate --model ./llama --temperature 0.8 --top-p 0.95 --seed 1 "A poem about the sea:"
  cat prompt.txt | jaxformers generate --model ./llama -
  jaxformers generate --model ./t5 "translate English to German: The house is red."
  jaxformers generate --model ./llama --json "a" "b" | jq -r .generated_text

With one prompt the text is printed while it is written. Several prompts are written together, one result each."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    from jaxformers.pipelines.arguments import add_model, add_sampling

    parser = subparsers.add_parser(
        "generate",
        help="continue a prompt",
        description="Continue a prompt, or answer it with a text-to-text model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompt", nargs="+", help="one or more prompts; a single - reads one from stdin, whole")
    add_model(parser)
    add_sampling(parser, 128)
    parser.add_argument("--no-prompt", action="store_true", help="print only what was written")
    parser.add_argument("--json", action="store_true", help="print one JSON object per result")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, write, print."""
    from jaxformers.hub.auto import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # type: ignore[attr-defined]
    from jaxformers.hub.auto_tokenizer import AutoTokenizer
    from jaxformers.hub.pretrained import load_config
    from jaxformers.models import family_of, task_of
    from jaxformers.pipelines.arguments import loading_keywords, print_json, prompt_inputs, sampling_keywords

    prompts = [sys.stdin.read().rstrip("\n")] if options.prompt == ["-"] else options.prompt
    config = load_config(options.model)
    tasks = family_of(config.model_type).tasks
    answers = task_of(config) == "Seq2SeqLM" or "CausalLM" not in tasks
    auto = AutoModelForSeq2SeqLM if answers else AutoModelForCausalLM
    model = auto.from_pretrained(options.model, **loading_keywords(options))
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    keywords = sampling_keywords(options)
    if len(prompts) == 1 and not options.json and (options.num_beams or 1) == 1:
        from jaxformers.generation.streaming import stream_text

        if not answers and not options.no_prompt:
            print(prompts[0], end="", flush=True)
        for piece in stream_text(model, tokenizer, **prompt_inputs(tokenizer, prompts[0]), **keywords):
            print(piece, end="", flush=True)
        print()
        return
    from jaxformers.pipelines.tasks import pipeline

    task = "text2text-generation" if answers else "text-generation"
    pipe = pipeline(task, model, tokenizer=tokenizer)
    extra = {} if answers else {"return_full_text": not options.no_prompt}
    for result in pipe(list(prompts), **extra, **keywords):
        one = result[0] if isinstance(result, list) else result
        if options.json:
            print_json(one)
        else:
            print(one["generated_text"])
