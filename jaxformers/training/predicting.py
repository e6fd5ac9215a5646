"""What a Trainer evaluates of a batch: the loss where its labels are there, and the model's outputs where asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxformers.core.errors import DataError
from jaxformers.training.data.fill import ANSWERS
from jaxformers.training.evaluate import EvalStep, make_eval_step
from jaxformers.training.losses.seq2seq import GIVEN, decoder_inputs

IGNORED_OUTPUTS = ("past_key_values", "mems")  # transformers' keys_to_ignore_at_inference
WRITERS = ("Seq2SeqLM", "SpeechSeq2Seq")  # tasks whose decoder reads the labels, moved by one
Batch = dict[str, jax.Array]
Evaluate = Callable[[Any, Batch], tuple[Any, Any]]


def is_label(name: str) -> bool:
    """Whether an array of a batch is an answer and no input."""
    return name in ANSWERS or name.endswith(("_labels", "_label"))


@dataclass(frozen=True)
class Outputs:
    """What the model returns but for caches and ignored fields: an array, or a tuple of several."""

    ignored: tuple[str, ...] = ()

    def __call__(self, model: Any, batch: Batch) -> Any:
        inputs = {name: value for name, value in batch.items() if not is_label(name)}
        if model.task in WRITERS and "labels" in batch and not any(name in batch for name in GIVEN):
            inputs["decoder_input_ids"] = decoder_inputs(model, batch["labels"])
        left_out = {*IGNORED_OUTPUTS, *self.ignored}
        found = tuple(value for name, value in model(**inputs).items() if name not in left_out)
        return found[0] if len(found) == 1 else found


def evaluator(loss: Callable | None, outputs: Outputs | None, **options: Any) -> Evaluate:
    """`evaluate(model, batch) -> (sums, outputs)`: sums are None without labels; then there are outputs in any case.

    outputs: None where the loss is enough. options: of `make_eval_step`.
    """
    steps: dict[Any, EvalStep] = {}

    def evaluate(model: Any, batch: Batch) -> tuple[Any, Any]:
        names = tuple(sorted(batch))
        if names not in steps:
            counted = loss if countable(loss, model, batch) else None
            wanted = (outputs or Outputs()) if counted is None else outputs
            steps[names] = make_eval_step(counted, wanted, **options)
        found = steps[names](model, batch)
        return found if isinstance(found, tuple) else (found, None)

    return evaluate


def writing(evaluate: Evaluate, **options: Any) -> Evaluate:
    """The same, but for outputs the tokens that the model writes for a batch, Int [B,T]; options are of `generate`."""

    def write(model: Any, batch: Batch) -> tuple[Any, Any]:
        sums, _ = evaluate(model, batch)
        inputs = {n: value for n, value in batch.items() if not is_label(n) and not n.startswith("decoder_")}
        return sums, model.generate(**inputs, **options)

    return write


def countable(loss: Callable | None, model: Any, batch: Batch) -> bool:
    """Whether the batch holds what the loss reads."""
    if loss is None:
        return False
    try:
        jax.eval_shape(loss, model, batch, None)
    except (KeyError, DataError):
        return False
    return True
