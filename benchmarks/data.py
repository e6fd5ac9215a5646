"""How much of a batch is text: the share of tokens among its places, for padding, grouping by length and packing.

python benchmarks/data.py [--anyway]

The texts are the functions and classes of Python's standard library, as byte-level BPE tokens. Also: how many tokens a
second the loader makes of texts, on its own thread and with more of them.
"""

import argparse
import ast
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import tokenizers
from measure import refuse_when_busy, save, table

import jaxformers as jf
from jaxformers.processing import Tokenizer
from jaxformers.training.data import BestFit, ConcatSplit, FirstFit, Tokenize, packing_efficiency
from jaxformers.training.data.collate import DataCollatorWithPadding

LENGTHS = (512, 2048)
ROWS = 32


def texts() -> list[dict[str, str]]:
    """Functions and classes at the top of the standard library's modules."""
    out = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        for node in ast.parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                out.append({"text": ast.get_source_segment(source, node) or ""})
    return out


def tokenizer(rows: list[dict[str, str]], folder: str) -> Tokenizer:
    """A byte-level BPE of 4096 tokens, trained on the texts."""
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(
        (row["text"] for row in rows), 4096, special_tokens=["<pad>", "</s>"], show_progress=False
    )
    backend.save(f"{folder}/tokenizer.json")
    made = jf.AutoTokenizer.from_pretrained(folder)
    made.pad_token, made.eos_token = "<pad>", "</s>"
    return made


def shares(documents: list[dict], length: int, made) -> dict[str, float]:
    """The share of tokens among places, by way of making batches of rows of at most `length`."""
    cut = [{"input_ids": row["input_ids"][:length]} for row in documents]
    padded = DataCollatorWithPadding(made)
    ways = {
        "padded to the longest": dict(shuffle=True, collate=padded),
        "grouped by length": dict(group_by_length=True, collate=padded),
        "FirstFit": dict(shuffle=True, pack=FirstFit(length, long="cut")),
        "BestFit": dict(shuffle=True, pack=BestFit(length, long="cut")),
        "ConcatSplit": dict(shuffle=True, pack=ConcatSplit(length)),
    }
    out = {}
    for name, options in ways.items():
        batches = list(jf.DataLoader(cut, batch_size=ROWS, epochs=1, **options))
        if "pack" in options:
            out[name] = packing_efficiency(batches)
        else:
            masks = [batch["attention_mask"] for batch in batches]
            out[name] = sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)
    return out


def speed(rows: list[dict[str, str]], made, threads: int, rounds: int) -> float:
    """Tokens a second from texts to packed batches; the median of some epochs."""
    times, tokens = [], 0
    for _ in range(rounds):
        transform = Tokenize(made, end=True)
        loader = jf.DataLoader(
            rows, batch_size=ROWS, epochs=1, shuffle=True, transform=transform, pack=FirstFit(1024), threads=threads
        )
        start = time.perf_counter()
        tokens = sum(int(np.count_nonzero(batch["segment_ids"])) for batch in loader)
        times.append(time.perf_counter() - start)
    return tokens / statistics.median(times)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    options = parser.parse_args()
    if not options.anyway:
        refuse_when_busy()
    rows = texts()
    with tempfile.TemporaryDirectory() as folder:
        made = tokenizer(rows, folder)
        transform = Tokenize(made, end=True)
        documents = [transform(row) for row in rows]
        kept = {str(length): shares(documents, length, made) for length in LENGTHS}
        sizes = [len(row["input_ids"]) for row in documents]
        print(f"{len(rows)} texts, {sum(sizes)} tokens, median {int(np.median(sizes))}, longest {max(sizes)}")
        rates = {str(threads): speed(rows, made, threads, options.rounds) for threads in (0, 2)}
    found = {"texts": len(rows), "shares": kept, "tokens_per_second": rates}
    print(f"\n{report(found)}")
    if not options.anyway:
        refuse_when_busy()  # what came while we measured spoils it as well
        save("data", "python benchmarks/data.py", found)


def report(found: dict) -> str:
    """What was found as tables."""
    shares, rates = found["shares"], found["tokens_per_second"]
    names = next(iter(shares.values()))
    cells = [[name, *(f"{shares[length][name]:.3f}" for length in shares)] for name in names]
    rows = [[threads, f"{rate:.3g}"] for threads, rate in rates.items()]
    first = table([f"share of tokens, {found['texts']} texts", *(f"rows of {length}" for length in shares)], cells)
    return first + "\n\n" + table(["threads beside the loop", "tokens/s, texts to packed batches"], rows)


if __name__ == "__main__":
    main()
