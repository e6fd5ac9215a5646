"""Padding and truncation: what the arguments of a tokenizer call mean, and padding of batches made of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

from jaxformers.processing.batch import BatchEncoding

if TYPE_CHECKING:
    from jaxformers.processing.tokenizer import Tokenizer

UNLIMITED = int(1e30)  # model_max_length of a tokenizer whose files name no length
NO_LENGTH = int(1e20)  # a model_max_length above this is no length at all
PADDINGS = ("longest", "max_length", "do_not_pad")
TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")


@dataclass(frozen=True)
class Lengths:
    """How one call pads and truncates; None means that it does not."""

    padding: str | None
    truncation: str | None
    max_length: int | None


def resolve_lengths(
    tokenizer: Tokenizer,
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    pad_to_multiple_of: int | None = None,
) -> Lengths:
    """Decide how to pad and truncate. Raises ValueError on unknown names, no pad token or lengths that clash."""
    if max_length is not None and max_length < 0:
        raise ValueError(f"max_length must not be negative, found {max_length}")
    if max_length is not None and padding is False and truncation is None:
        truncation = True  # max_length alone asks for truncation
    pad = _choice("padding", padding, PADDINGS)
    cut = _choice("truncation", truncation, TRUNCATIONS)
    if max_length is None and tokenizer.model_max_length <= NO_LENGTH:
        if pad == "max_length" or cut is not None:
            max_length = tokenizer.model_max_length
    elif max_length is None:  # the model has no maximal length, so there is nothing to pad or truncate to
        pad, cut = None if pad == "max_length" else pad, None
    if pad is not None and tokenizer.pad_token_id is None:
        raise ValueError(
            "padding needs a pad token and this tokenizer has none: set tokenizer.pad_token = tokenizer.eos_token, "
            'or add one with tokenizer.add_special_tokens({"pad_token": "[PAD]"})'
        )
    if pad and cut and pad_to_multiple_of and max_length is not None and max_length % pad_to_multiple_of:
        raise ValueError(f"max_length {max_length} is not a multiple of pad_to_multiple_of {pad_to_multiple_of}")
    return Lengths(pad, cut, max_length)


def _choice(name: str, value: bool | str | None, choices: Sequence[str]) -> str | None:
    """Return the first choice for True, None for False, None and the last choice."""
    if value is None or isinstance(value, bool):
        return choices[0] if value else None
    if value not in choices:
        raise ValueError(f"{name} must be a bool or one of {list(choices)}, not {value!r}")
    return None if value == choices[-1] else str(value)


def pad_batch(
    tokenizer: Tokenizer,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    lengths: Lengths,
    *,
    pad_to_multiple_of: int | None = None,
    padding_side: str | None = None,
    return_attention_mask: bool | None = None,
    return_tensors: str | None = None,
) -> BatchEncoding:
    """Pad encoded inputs, one example, a dictionary of lists or a list of dictionaries, to one length."""
    if not isinstance(inputs, Mapping):
        inputs = {key: [example[key] for example in inputs] for key in (inputs[0] if inputs else {})}
    main = tokenizer.model_input_names[0]
    if main not in inputs:
        raise ValueError(f"pad needs {main}, found {list(inputs)}")
    data = {key: _as_lists(value) for key, value in inputs.items()}
    if not data[main]:
        return BatchEncoding({**data, "attention_mask": []} if return_attention_mask else data)
    if return_tensors is None and any(hasattr(value, "dtype") for value in (inputs[main], inputs[main][0])):
        return_tensors = "np"  # arrays in, arrays out
    if return_attention_mask is None:
        return_attention_mask = "attention_mask" in tokenizer.model_input_names
    single = not isinstance(data[main][0], list)
    rows = [data] if single else [{key: value[i] for key, value in data.items()} for i in range(len(data[main]))]
    target = lengths.max_length if lengths.padding == "max_length" else max(len(row[main]) for row in rows)
    if pad_to_multiple_of and target is not None:
        target = -(-target // pad_to_multiple_of) * pad_to_multiple_of
    pad_side = side("padding_side", padding_side or tokenizer.padding_side)
    fills = {
        main: tokenizer.pad_token_id,
        "attention_mask": 0,
        "token_type_ids": tokenizer.pad_token_type_id,
        "special_tokens_mask": 1,
    }
    padded = []
    for row in rows:
        if return_attention_mask and "attention_mask" not in row:
            row = {**row, "attention_mask": [1] * len(row[main])}
        missing = target - len(row[main]) if lengths.padding and target is not None else 0
        padded.append({key: _pad_row(value, missing, fills.get(key), pad_side) for key, value in row.items()})
    merged = padded[0] if single else {key: [row[key] for row in padded] for key in padded[0]}
    return BatchEncoding(merged, tensor_type=return_tensors)


def _pad_row(value: Any, missing: int, fill: int | None, pad_side: str) -> Any:
    if fill is None or missing <= 0:
        return value
    return value + [fill] * missing if pad_side == "right" else [fill] * missing + value


def side(name: str, value: str) -> str:
    """Return "left" or "right". Raises ValueError on anything else."""
    if value not in ("left", "right"):
        raise ValueError(f'{name} must be "left" or "right", not {value!r}')
    return value


def enable_truncation(backend: Backend, truncation: Mapping[str, Any]) -> None:
    """Switch truncation on. Raises ValueError when nothing fits beside the special tokens."""
    if truncation["stride"] < 0:
        raise ValueError(f"stride must not be negative, found {truncation['stride']}")
    try:
        backend.enable_truncation(**truncation)
    except ValueError as error:
        raise ValueError(no_room(truncation)) from error


def no_room(truncation: Mapping[str, Any]) -> str:
    """Say that the stride leaves no tokens for the next row."""
    return (
        f"stride {truncation['stride']} is too large for max_length {truncation['max_length']}: "
        "each row must have room for more than stride tokens beside the special tokens"
    )


def _as_lists(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy and jax arrays
        return value.tolist()
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
