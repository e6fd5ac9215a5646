"""`jaxformers transcribe`: what is said in sound files, as text, subtitles or JSON."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FORMATS = ("txt", "srt", "vtt", "json")
EXAMPLES = """examples:
  jaxformers transcribe --model ./whisper-small talk.mp3
  jaxformers transcribe --model ./whisper-small --format srt --out talk.srt talk.mp3
  jaxformers transcribe --model ./whisper-small --language de --task translate rede.flac
  cat call.wav | jaxformers transcribe --model ./wav2vec2 --words --format json -

With one file and no --out the transcript goes to stdout. --out names a file, or a folder for several inputs."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    from jaxformers.pipelines.arguments import add_model

    parser = subparsers.add_parser(
        "transcribe",
        help="write down what is said in sound files",
        description="Write down what is said in sound files, with Whisper or a CTC model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sound", nargs="+", help="sound files or URLs; - reads one from stdin")
    add_model(parser)
    parser.add_argument(
        "--format", choices=FORMATS, help="form of the transcript (default: the ending of --out, or txt)"
    )
    parser.add_argument("--out", help="write to this file, or into this folder when there are several sounds")
    parser.add_argument("--words", action="store_true", help="times for every word instead of every phrase")
    parser.add_argument("--language", help="what is spoken, such as en or German (default: Whisper finds out)")
    parser.add_argument("--task", choices=("transcribe", "translate"), help="translate: into English")
    parser.add_argument("--chunk-length", type=float, default=0, metavar="SECONDS", help="cut long sounds into pieces")
    parser.add_argument("--num-beams", type=int, help="beams to search with (default: 5, as Whisper's authors)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, listen, write."""
    from jaxformers.pipelines.arguments import check_files, loading_keywords

    several = len(options.sound) > 1
    check_files(options.sound, options.out)
    form = options.format or form_of(options.out)
    from jaxformers.pipelines.tasks import pipeline

    pipe: Any = pipeline("automatic-speech-recognition", options.model, **loading_keywords(options))
    keywords: dict[str, Any] = {"chunk_length_s": options.chunk_length, "ignore_warning": True}
    if options.words or (form != "txt" and pipe.hears_frames):
        keywords["return_timestamps"] = "word"
    elif form != "txt":
        keywords["return_timestamps"] = True
    elif not pipe.hears_frames:
        keywords["return_timestamps"] = True  # Whisper needs its own stamps to go on after 30 seconds
    said = {k: getattr(options, k) for k in ("language", "task", "num_beams") if getattr(options, k) is not None}
    if said and pipe.hears_frames:
        raise ValueError(f"--{next(iter(said)).replace('_', '-')} is for Whisper; {options.model} is a CTC model")
    for name in options.sound:
        result = pipe(sys.stdin.buffer.read() if name == "-" else name, **keywords, **said)
        text = written(form, result)
        if options.out is None:
            print(f"{name}\t{text}" if several and form == "txt" else text, flush=True)
            continue
        target = Path(options.out)
        if target.is_dir():
            target = target / f"{Path(name).stem if name != '-' else 'stdin'}.{form}"
        target.write_text(text + "\n", encoding="utf-8")
        print(f"{target}: {len(result['text'].split())} words", file=sys.stderr)


def form_of(out: str | None) -> str:
    """The format that a file name asks for."""
    ending = Path(out).suffix.lstrip(".").lower() if out else ""
    return ending if ending in FORMATS else "txt"


def written(form: str, result: dict[str, Any]) -> str:
    """A transcript in one of the formats."""
    if form == "txt":
        return result["text"].strip()
    if form == "json":
        return json.dumps(result, ensure_ascii=False)
    cues = []
    for number, chunk in enumerate(result["chunks"], 1):
        start, end = chunk["timestamp"]
        end = start if end is None else end  # the last phrase may have no end
        line = f"{clock(start, form)} --> {clock(end, form)}\n{chunk['text'].strip()}\n"
        cues.append(f"{number}\n{line}" if form == "srt" else line)
    return ("WEBVTT\n\n" if form == "vtt" else "") + "\n".join(cues).rstrip("\n")


def clock(seconds: float, form: str) -> str:
    """A time as subtitles write it."""
    thousandths = round(seconds * 1000)
    rest, milli = divmod(thousandths, 1000)
    minutes, second = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{',' if form == 'srt' else '.'}{milli:03d}"
