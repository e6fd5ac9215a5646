"""Logs as plain files: a JSON object on each line, or a table of comma-separated values."""

import csv
import json
import time
from pathlib import Path
from typing import Any

from jaxformers.training.callbacks.callback import TrainerCallback
from jaxformers.training.trainer_state import plain


class JSONLinesCallback(TrainerCallback):
    """Appends each log to `logs.jsonl` in the output folder, with its step and the time since 1970 in seconds.

    A run that goes on from a checkpoint drops the lines after it first.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.given = path
        self.path: Path | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.path = Path(self.given or Path(args.output_dir) / "logs.jsonl")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = [line for line in lines(self.path) if line.get("step", 0) <= state.global_step > 0]
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.path is not None:
            row = {"step": state.global_step, **plain(kwargs["logs"]), "time": round(time.time(), 3)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


class CSVCallback(TrainerCallback):
    """Writes all logs so far as one table, `logs.csv` in the output folder; a value that a log lacks is empty."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.given = path

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            path = Path(self.given or Path(args.output_dir) / "logs.csv")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_table(path, state.log_history)


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; a last line that was cut off is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows under the names of all of them; new names come as new columns, so the table is written whole."""
    names = list(dict.fromkeys(["step", *(name for row in rows for name in row)]))
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
    new.replace(path)
