"""A small vision transformer learns scikit-learn's handwritten digits by the Trainer, 8 by 8 pixels each.

pip install "jaxformers[metrics]"    # scikit-learn, for the pictures
python examples/digits_vit.py
"""

import argparse

import jax
import numpy as np

import jaxformers as jf
from jaxformers.training.data.draws import Draws

CONFIG = jf.AutoConfig.for_model(
    "vit",
    image_size=8,
    patch_size=2,
    num_channels=1,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_labels=10,
    initializer_range=0.05,
)


def digits(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Columns to learn from and to test on: three quarters and one quarter of 1797 pictures, [N,1,8,8] around 0."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    pixels = (found.images[:, None] / 8 - 1).astype(np.float32)
    halves = train_test_split(pixels, found.target, test_size=0.25, random_state=seed, stratify=found.target)
    train, test, train_labels, test_labels = halves
    return {"pixel_values": train, "labels": train_labels}, {"pixel_values": test, "labels": test_labels}


def moved(rows: list[dict], draws: Draws) -> dict[str, np.ndarray]:
    """A batch of pictures, each moved by up to a pixel and with some noise: the same digits, but other numbers."""
    pictures = []
    for place, row in enumerate(rows):
        draw = draws.row(place)
        down, right = draw.integers(0, 3, 2)
        wide = np.pad(row["pixel_values"], ((0, 0), (1, 1), (1, 1)), constant_values=-1)
        pictures.append(wide[:, down : down + 8, right : right + 8] + draw.normal(0, 0.2, (1, 8, 8)).astype(np.float32))
    return {
        "pixel_values": np.stack(pictures),
        "labels": np.array([row["labels"] for row in rows]),
    }


def main(epochs: int = 40, output_dir: str = "out/digits") -> float:
    """Train, and return the accuracy on pictures that were not learnt from."""
    train, test = digits()
    args = jf.TrainingArguments(
        output_dir,
        num_train_epochs=epochs,
        optim="muon",
        learning_rate=0.02,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.1,
        per_device_eval_batch_size=64,
        logging_steps=0.05,
        save_strategy="no",
        mesh="none",
    )
    loader = jf.DataLoader(train, batch_size=64, collate=moved, shuffle=True)
    trainer = jf.Trainer(
        jf.Model.init(CONFIG, jax.random.key(0), task="ImageClassification"),
        args,
        train_dataset=loader,
        eval_dataset=test,
        compute_metrics=jf.metrics_for("ImageClassification"),
    )
    trainer.train()
    found = trainer.evaluate()
    print(f"accuracy {found['eval_accuracy']:.4f} on {len(test['labels'])} pictures held out")
    return found["eval_accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--output-dir", default="out/digits")
    options = parser.parse_args()
    main(options.epochs, options.output_dir)
