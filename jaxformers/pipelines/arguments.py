"""Command-line arguments that several commands share, and the keywords they stand for. Imports nothing heavy."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def add_model(parser: argparse.ArgumentParser, what: str = "checkpoint folder or hub name") -> None:
    """--model and how to load it."""
    parser.add_argument("--model", required=True, help=what)
    parser.add_argument("--dtype", help="dtype of the parameters, such as bfloat16 (default: the checkpoint's)")
    parser.add_argument("--quantize", choices=("int8", "int4", "fp8"), help="round its matrices while they are read")


def add_sampling(parser: argparse.ArgumentParser, new: int) -> None:
    """How to write."""
    parser.add_argument("--max-new-tokens", type=int, default=new, help=f"tokens to write (default: {new})")
    parser.add_argument("--temperature", type=float, help="sample, and how freely (default: the likeliest token)")
    parser.add_argument("--top-k", type=int, help="sample among that many tokens")
    parser.add_argument("--top-p", type=float, help="sample among the likeliest tokens that make up this probability")
    parser.add_argument("--repetition-penalty", type=float, help="above 1: write what was written already less often")
    parser.add_argument("--num-beams", type=int, help="beams to search with")
    parser.add_argument("--seed", type=int, default=0, help="of the random key; equal seeds write equal texts")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="stop after this text; may be repeated")


def sampling_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords for generate."""
    import jax

    names = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "num_beams")
    said = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    sampled = any(name in said for name in ("temperature", "top_k", "top_p"))
    said["do_sample"] = sampled
    if sampled:
        said["key"] = jax.random.key(options.seed)
    if options.stop:
        said["stop_strings"] = options.stop
    return said


def loading_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords for from_pretrained."""
    given = {"dtype": options.dtype, "quantize": getattr(options, "quantize", None)}
    return {name: value for name, value in given.items() if value is not None}


def prompt_inputs(tokenizer: Any, prompt: str, **options: Any) -> dict[str, Any]:
    """A prompt as generate reads it: input_ids and attention_mask [1,P]."""
    encoded = tokenizer([prompt], return_tensors="np", **options)
    if not encoded["input_ids"].shape[1]:
        raise ValueError("the prompt gives no tokens; write something")
    return {name: encoded[name] for name in ("input_ids", "attention_mask") if name in encoded}


def check_files(names: Sequence[str], out: str | None = None) -> None:
    """Raise FileNotFoundError for a name that is neither a file, a URL nor -, before anything is loaded.

    Raises ValueError when several inputs are to be written and `out` is no folder.
    """
    if len(names) > 1 and out and not Path(out).is_dir():
        raise ValueError(f"--out {out} is no folder; several inputs need one to write into")
    for name in names:
        if name != "-" and "://" not in name and not Path(name).is_file():
            raise FileNotFoundError(2, "No such file or directory", name)


def lines_of(source: str) -> Iterable[str]:
    """The texts of a file, one per line; `-` is stdin."""
    from jaxformers.pipelines.texts import read_texts

    return [text for _, text in read_texts(source)]


def print_json(value: Any) -> None:
    """One JSON value on a line of stdout, at once."""
    print(json.dumps(value, ensure_ascii=False, default=plain), flush=True)


def plain(value: Any) -> Any:
    """Arrays as lists, anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def say(text: str) -> None:
    """Something for the person, not for what reads stdout."""
    print(text, file=sys.stderr)
