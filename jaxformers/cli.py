"""The `jaxformers` command: finds the commands, reads the arguments, turns errors into one line and an exit code."""

import argparse
import importlib
import os
import pkgutil
import signal
import sys
from typing import NoReturn

from jaxformers import __version__, commands

EPILOG = """examples:
  jaxformers demo
  jaxformers info ./my-model
  jaxformers embed --model ./minilm sentences.txt --out vectors.npy
  jaxformers search --model ./minilm --corpus notes.txt "how do I read a zip file?"

`jaxformers COMMAND --help` shows the options and examples of one command."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose options may stand between its positional arguments."""

    mixing = False

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As argparse's, in two passes: options first. A parser of commands cannot, and need not, do that."""
        if self.mixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self.mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.mixing = False

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Build the parser from the files in jaxformers/commands."""
    top = Parser(
        prog="jaxformers",
        description="Hugging Face checkpoints as pure JAX functions.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"jaxformers {__version__}")
    top.add_argument("--traceback", action="store_true", help="show where an error came from")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for module in sorted(info.name for info in pkgutil.iter_modules(commands.__path__)):
        importlib.import_module(f"jaxformers.commands.{module}").add_parser(subparsers)
    return top


def one_line(error: BaseException) -> str:
    """An error's message on a single line, with its type where the message alone says too little."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return text if len(text) > 20 else f"{type(error).__name__}: {text}".rstrip(": ")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0, 2 for an error (one line on stderr), 130 when interrupted."""
    options = argparse.Namespace(command="", traceback=False)
    try:
        options = parser().parse_args(argv)
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.traceback:
            raise
        print(f"{' '.join(filter(None, ['jaxformers', options.command]))}: error: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
