"""`jaxformers chat`: a conversation in the terminal."""

import argparse
import sys
from typing import Any

EXAMPLES = """examples:
  jaxformers chat --model ./llama-instruct
  jaxformers chat --model ./qwen --system "You answer in one sentence." --temperature 0.7
  echo "What is JAX?" | jaxformers chat --model ./llama-instruct

In the conversation: /clear forgets what was said, /system TEXT sets the system prompt and begins anew, /save FILE
writes the conversation as JSON, /quit ends (so does Ctrl-D). Ctrl-C stops an answer."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    from jaxformers.pipelines.arguments import add_model, add_sampling

    parser = subparsers.add_parser(
        "chat",
        help="talk with a model in the terminal",
        description="Talk with a model that has a chat template; answers are printed while they are written.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    parser.add_argument("--system", help="the system prompt")
    add_sampling(parser, 512)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, then answer line by line."""
    from jaxformers.hub.auto import AutoModelForCausalLM  # type: ignore[attr-defined]
    from jaxformers.hub.auto_tokenizer import AutoTokenizer
    from jaxformers.pipelines.arguments import loading_keywords, sampling_keywords, say

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if not tokenizer.chat_template:
        raise ValueError(f"{options.model} has no chat template; use `jaxformers generate`")
    model = AutoModelForCausalLM.from_pretrained(options.model, **loading_keywords(options))
    person = sys.stdin.isatty()
    if person:
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # arrow keys and history at the prompt
        say("/clear, /system TEXT, /save FILE, /quit; Ctrl-C stops an answer")
    messages = first_messages(options.system)
    turn = 0
    while (line := next_line(person)) is not None:
        if line.startswith("/"):
            messages = command(line, messages, options)
            if messages is None:
                return
            continue
        messages.append({"role": "user", "content": line})
        turn += 1
        keywords = sampling_keywords(options)
        if "key" in keywords:
            import jax

            keywords["key"] = jax.random.fold_in(keywords["key"], turn)
        messages.append({"role": "assistant", "content": answer(model, tokenizer, messages, keywords)})


def first_messages(system: str | None) -> list[dict[str, str]]:
    """A conversation that has not begun."""
    return [{"role": "system", "content": system}] if system else []


def next_line(person: bool) -> str | None:
    """What was said, None at the end. Empty lines are left out."""
    while True:
        try:
            line = input("> " if person else "")
        except EOFError:
            return None
        if line.strip():
            return line.strip()


def command(line: str, messages: list[dict[str, str]], options: argparse.Namespace) -> list[dict[str, str]] | None:
    """Carry out a /command. Returns the conversation as it then is, None to end."""
    from jaxformers.pipelines.arguments import say

    name, _, rest = line.partition(" ")
    if name in ("/quit", "/exit", "/bye"):
        return None
    if name == "/clear":
        return first_messages(options.system)
    if name == "/system":
        options.system = rest.strip() or None
        return first_messages(options.system)
    if name == "/save" and rest.strip():
        import json
        from pathlib import Path

        Path(rest.strip()).write_text(json.dumps(messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        say(f"{rest.strip()}: {len(messages)} messages")
        return messages
    say(f"{line!r} is no command; there are /clear, /system TEXT, /save FILE and /quit")
    return messages


def answer(model: Any, tokenizer: Any, messages: list[dict[str, str]], keywords: dict[str, Any]) -> str:
    """Print the answer while it is written, and return it; Ctrl-C keeps what was written so far."""
    from jaxformers.generation.streaming import stream_text
    from jaxformers.pipelines.arguments import prompt_inputs

    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = prompt_inputs(tokenizer, prompt, add_special_tokens=False)  # the template has written them
    written = ""
    try:
        for piece in stream_text(model, tokenizer, **inputs, **keywords):
            print(piece, end="", flush=True)
            written += piece
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    print(flush=True)
    return written
