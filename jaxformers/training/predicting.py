"""The step of an evaluation: a batch's loss as sums, and what the model returns for it, in one program."""

from collections.abc import Callable
from typing import Any

import jax

from jaxformers.training.data.fill import ANSWERS
from jaxformers.training.losses.seq2seq import GIVEN, decoder_inputs

IGNORED_OUTPUTS = ("past_key_values", "mems")  # transformers' keys_to_ignore_at_inference
WRITERS = ("Seq2SeqLM", "SpeechSeq2Seq")  # tasks whose decoder reads the labels, moved by one
Evaluate = Callable[[Any, dict[str, jax.Array]], tuple[Any, Any]]


def is_label(name: str) -> bool:
    """Whether an array of a batch is an answer and no input."""
    return name in ANSWERS or name.endswith(("_labels", "_label"))


def make_eval_step(
    loss: Callable | None, ignore_keys: list[str] | None, loss_only: bool, dtype: Any = None
) -> Evaluate:
    """`evaluate(model, batch) -> (LossOutput, outputs)`, jitted; None for a loss without labels, and for no outputs.

    dtype: of the computation, where it is not the model's own.
    """

    @jax.jit
    def run(model: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
        sums = loss(model, batch, None) if countable(loss, model, batch) else None
        return sums, None if loss_only and sums is not None else outputs(model, batch, ignore_keys)

    def evaluate(model: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
        return run(model if dtype is None else model.replace(compute_dtype=dtype), batch)

    return evaluate


def countable(loss: Callable | None, model: Any, batch: dict[str, jax.Array]) -> bool:
    """Whether the batch holds what the loss reads."""
    if loss is None:
        return False
    try:
        jax.eval_shape(loss, model, batch, None)
    except KeyError:
        return False
    return True


def outputs(model: Any, batch: dict[str, jax.Array], ignore_keys: list[str] | None) -> Any:
    """What the model returns but for caches and ignored fields: an array, or a tuple of several."""
    inputs = {name: value for name, value in batch.items() if not is_label(name)}
    if model.task in WRITERS and "labels" in batch and not any(name in batch for name in GIVEN):
        inputs["decoder_input_ids"] = decoder_inputs(model, batch["labels"])
    ignored = {*IGNORED_OUTPUTS, *(ignore_keys or ())}
    found = tuple(value for name, value in model(**inputs).items() if name not in ignored)
    return found[0] if len(found) == 1 else found
