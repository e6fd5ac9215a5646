"""A small llama that learns to write Python: its tokenizer, data, training and what it writes then, all on the spot."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tokenizers

from jaxformers.demos.figures import Figures
from jaxformers.demos.library import held_out, modules
from jaxformers.hub.auto import AutoConfig
from jaxformers.hub.auto_tokenizer import AutoTokenizer
from jaxformers.hub.model import Model
from jaxformers.processing.tokenizer import Tokenizer
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.data import ConcatSplit, DataLoader, Tokenize
from jaxformers.training.trainer import Trainer

END = "<|endoftext|>"
# They end within a line: newlines and the spaces after them are one token, which a prompt would cut.
PROMPTS = ('class Error(Exception):\n    """', "    def __init__(self,", "def read(self,")


@dataclass(frozen=True)
class Form:
    """How large a run is: the model, its rows of tokens, and the steps.

    share: of the modules to learn from, one in so many is read. rows: of a step.
    """

    steps: int
    width: int = 128
    layers: int = 2
    heads: int = 2
    vocabulary: int = 1024
    length: int = 128
    rows: int = 16
    share: int = 1
    tested: int = 256  # held-out rows, spread evenly
    learning_rate: float = 0.04


ONE_MINUTE = Form(steps=160, share=4)
FIVE_MINUTES = Form(steps=600, layers=4, learning_rate=0.03)


class Texts(NamedTuple):
    """Modules to learn from, and modules that are held out whole."""

    train: list[str]
    test: list[str]


class Score(NamedTuple):
    """How well held-out text is foreseen. loss: nats for each token."""

    loss: float
    bytes_per_token: float

    @property
    def perplexity(self) -> float:
        """Among how many tokens the model is as undecided as if all were equally likely."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """The same for any vocabulary: how small the text becomes. 8 is no knowledge at all."""
        return self.loss / math.log(2) / self.bytes_per_token

    @property
    def per_byte(self) -> float:
        """The perplexity of each byte."""
        return 2**self.bits_per_byte


def texts(share: int = 1) -> Texts:
    """The standard library's source, cut by whole modules."""
    found = list(modules())
    learnt = [source for name, source in found if source and not held_out(name)]
    return Texts(learnt[::share], [source for name, source in found if source and held_out(name)])


def train_tokenizer(corpus: Iterable[str], size: int, folder: Path) -> Tokenizer:
    """A byte-level BPE of `size` tokens, learnt from texts and left in a folder; it can write any text."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    return AutoTokenizer.from_pretrained(folder / "tokenizer.json", eos_token=END, pad_token=END, padding_side="left")


def packed(corpus: Sequence[str], tokenizer: Tokenizer, length: int) -> dict[str, np.ndarray]:
    """Texts as columns of whole rows of tokens, [N,length]; attention does not cross from one module to the next."""
    loader = DataLoader(
        [{"text": text} for text in corpus],
        batch_size=64,
        transform=Tokenize(tokenizer, end=True),
        pack=ConcatSplit(length),
        last="keep",
        epochs=1,
    )
    batches = list(loader)
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    full = rows["segment_ids"].all(axis=1)  # all rows but the last
    return {name: values[full] for name, values in rows.items()}


def spread(rows: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """So many of the rows, or all, at equal distances."""
    total = len(rows["input_ids"])
    chosen = np.arange(min(count, total)) * total // min(count, total)
    return {name: values[chosen] for name, values in rows.items()}


def make_model(form: Form, tokenizer: Tokenizer, seed: int = 0) -> Model:
    """A llama that knows nothing yet."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=form.width,
        intermediate_size=3 * form.width,
        num_hidden_layers=form.layers,
        num_attention_heads=form.heads,
        num_key_value_heads=1,
        max_position_embeddings=2 * form.length,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Model.init(config, jax.random.key(seed), task="CausalLM")


def arguments(form: Form, folder: Path) -> TrainingArguments:
    """The run: Muon, which learns far more from few steps than AdamW, at a learning rate that rises and falls away."""
    return TrainingArguments(
        str(folder),
        max_steps=form.steps,
        per_device_train_batch_size=form.rows,
        per_device_eval_batch_size=32,
        optim="muon",
        optim_args={"ns_steps": 3},
        learning_rate=form.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, form.steps // 12),
        logging_steps=max(1, form.steps // 20),
        save_strategy="no",
        run_summary=False,
        mesh="none",
    )


def frequencies(rows: dict[str, np.ndarray], test: dict[str, np.ndarray], vocabulary: int) -> float:
    """The loss of one who knows how often each token comes, and nothing of those before it: to be beaten."""
    counts = np.bincount(rows["input_ids"].ravel(), minlength=vocabulary) + 1.0
    return float(-np.log(counts / counts.sum())[test["input_ids"]].mean())


class Learnt(NamedTuple):
    """What came of a run: held-out scores before and after, that of frequencies alone, and what was logged."""

    model: Model
    tokenizer: Tokenizer
    by_frequency: Score
    before: Score
    after: Score
    history: list[dict[str, Any]]


def learn(form: Form, folder: Path, figures: Figures) -> Learnt:
    """Train a tokenizer and a llama on the standard library, and leave both in a folder that anything here loads."""
    with figures.timed("read the library") as remark:
        train, test = texts(form.share)
        remark.append(f"{len(train)} modules to learn from, {len(test)} held out")
    with figures.timed("train the tokenizer") as remark:
        tokenizer = train_tokenizer(train, form.vocabulary, folder)
        remark.append(f"{len(tokenizer)} tokens from {sum(map(len, train)) / 1e6:.1f} MB")
    with figures.timed("tokenise and pack") as remark:
        rows, every = packed(train, tokenizer, form.length), packed(test, tokenizer, form.length)
        bytes_per_token = sum(len(text.encode()) for text in test) / every["input_ids"].size
        remark.append(f"{rows['input_ids'].size / 1e6:.2f} M tokens, {bytes_per_token:.2f} bytes each")
    held = spread(every, form.tested)
    trainer = Trainer(make_model(form, tokenizer), arguments(form, folder), train_dataset=rows, eval_dataset=held)
    before, after = trained(trainer, figures)
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    alone = frequencies(rows, held, len(tokenizer))
    scores = (Score(loss, bytes_per_token) for loss in (alone, before, after))
    return Learnt(trainer.model, tokenizer, *scores, trainer.state.log_history)


def trained(trainer: Trainer, figures: Figures) -> tuple[float, float]:
    """Train; the losses on held-out rows before and after, in nats for each token."""
    with figures.timed("evaluate before"):
        before = trainer.evaluate()["eval_loss"]
    with figures.timed("train the llama") as remark:
        done = trainer.train().metrics
        remark.append(f"{done['train_steps_per_second']:.1f} steps/s, compilation included")
    with figures.timed("evaluate after"):
        after = trainer.evaluate()["eval_loss"]
    return before, after


def complete(model: Model, tokenizer: Tokenizer, prompts: Sequence[str] = PROMPTS, new: int = 64) -> list[str]:
    """Each prompt with what the model writes after it."""
    inputs = tokenizer(list(prompts), padding=True, return_tensors="np")
    written = model.generate(
        **inputs, max_new_tokens=new, do_sample=True, temperature=0.7, top_p=0.9, key=jax.random.key(0)
    )
    return tokenizer.batch_decode(np.asarray(written), skip_special_tokens=True)


def default_folder() -> Path:
    """Where the model is left: the user's cache, by the XDG rules."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "jaxformers" / "stdlib-llama"
