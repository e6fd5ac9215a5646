"""How fast texts become ids: our tokenizers against transformers' fast ones on the same files, in one run.

Four tokenizers are trained on the standard library's source: word pieces, byte-level BPE, SentencePiece unigram (as
XLM-RoBERTa has it) and SentencePiece BPE (as Llama has it). Each encodes a batch of short texts, a long document, and
one short text. Ids are compared before anything is timed.

python benchmarks/encode.py [--rounds 11] [--anyway]
"""

import argparse
import io
import json
import statistics
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import sentencepiece
import transformers
from measure import refuse_when_busy, save, side_by_side, table
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

import jaxformers as jf

SHORT, LONG, SIZE = 512, 400_000, 8000  # texts in a batch, characters of a document, tokens in a vocabulary
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OURS, THEIRS = "jaxformers", "transformers"


def lines() -> list[str]:
    """Lines of the standard library with something on them."""
    files = sorted(Path(textwrap.__file__).parent.glob("*.py"))
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    return [line for line in text.splitlines() if len(line.strip()) > 20]


def word_pieces(folder: Path, corpus: list[str]) -> None:
    """vocab.txt of a lower-casing BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=BERT, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.model.save(str(folder))


def byte_pairs(folder: Path, corpus: list[str]) -> None:
    """vocab.json and merges.txt of a GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=SIZE, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.model.save(str(folder))


def pieces(file: Path, corpus: list[str], kind: str) -> None:
    """A SentencePiece model."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus[::4]),
        model_writer=out,
        model_type=kind,
        vocab_size=SIZE,
        byte_fallback=kind == "bpe",
        minloglevel=2,
        num_threads=2,
    )
    file.write_bytes(out.getvalue())


def folders(root: Path, corpus: list[str]) -> dict[str, Path]:
    """Write the four folders."""
    kinds = {
        "word pieces (bert)": ("bert", {}, word_pieces),
        "byte-level BPE (gpt2)": ("gpt2", {}, byte_pairs),
        "unigram (xlm-roberta)": (
            "xlm-roberta",
            {},
            lambda folder, texts: pieces(folder / "sentencepiece.bpe.model", texts, "unigram"),
        ),
        "BPE with bytes (llama)": (
            "llama",
            {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
            lambda folder, texts: pieces(folder / "tokenizer.model", texts, "bpe"),
        ),
    }
    found = {}
    for name, (model_type, config, write) in kinds.items():
        found[name] = folder = root / model_type
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        write(folder, corpus)
    return found


def measure(name: str, folder: Path, texts: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """Rows of one tokenizer: each input, each library twice."""
    ours, theirs = jf.AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for input_name, text in texts.items():
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], (name, input_name)
        times = side_by_side(
            {
                THEIRS: lambda text=text: theirs(text),
                OURS: lambda text=text: ours(text),
                f"{THEIRS} again": lambda text=text: theirs(text),
                f"{OURS} again": lambda text=text: ours(text),
            },
            rounds,
            least=0.15,
        )
        batch = [text] if isinstance(text, str) else text
        size = sum(len(one.encode()) for one in batch)
        seconds = {side: statistics.median(each) for side, each in times.items()}
        rows.append(
            {
                "tokenizer": name,
                "input": input_name,
                "texts_per_second": {side: len(batch) / each for side, each in seconds.items()},
                "mb_per_second": {side: size / each / 1e6 for side, each in seconds.items()},
                "ratio": seconds[THEIRS] / seconds[OURS],
                "same_transformers": seconds[THEIRS] / seconds[f"{THEIRS} again"],
                "same_jaxformers": seconds[OURS] / seconds[f"{OURS} again"],
            }
        )
    return rows


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def main() -> None:
    """Train, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    corpus = lines()
    batch = corpus[:: len(corpus) // SHORT][:SHORT]
    texts = {f"{SHORT} lines": batch, f"{LONG // 1000} KB document": "\n".join(corpus)[:LONG], "one line": batch[7]}
    rows = []
    with tempfile.TemporaryDirectory() as root:
        kinds = folders(Path(root), corpus)
        if not options.anyway:
            refuse_when_busy()
        for name, folder in kinds.items():
            rows += measure(name, folder, texts, options.rounds)
    header = ["tokenizer", "input", "transformers texts/s", "MB/s", "A/A", "jaxformers texts/s", "MB/s", "A/A", "ratio"]
    cells = [
        [
            row["tokenizer"],
            row["input"],
            _number(row["texts_per_second"][THEIRS]),
            f"{row['mb_per_second'][THEIRS]:.2f}",
            f"{row['same_transformers']:.2f}",
            _number(row["texts_per_second"][OURS]),
            f"{row['mb_per_second'][OURS]:.2f}",
            f"{row['same_jaxformers']:.2f}",
            f"{row['ratio']:.2f}",
        ]
        for row in rows
    ]
    print(table(header, cells))
    save("encode", "python benchmarks/encode.py", rows)


if __name__ == "__main__":
    main()
