"""From the caller's arrays to a Prompt, on the host: what is missing is made, and all is padded to buckets."""

from typing import Any

import jax
import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.core.outputs import BaseModelOutput
from jaxformers.generation.buckets import length_bucket, row_bucket
from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.writer import EncoderDecoderWriter, Prompt, Writer
from jaxformers.hub.model import Model
from jaxformers.nn.seq2seq import as_output

Inputs = dict[str, Any]

# Inputs that have a row for each text and go to the first call as they are.
BESIDE = ("encoder_hidden_states", "encoder_outputs", "encoder_attention_mask")


def read_prompt(model: Model, writer: Writer, inputs: Inputs, config: GenerationConfig) -> Prompt:
    """The prompt in its bucket; runs the encoder where there is one. Raises ValueError for inputs that do not fit."""
    inputs = {k: v for k, v in inputs.items() if v is not None}
    if "past_key_values" in inputs:
        raise ValueError(
            "generate makes its own cache, in a bucket; to go on from a cache of yours, call the model in a loop as "
            "examples/decode_with_cache.py does"
        )
    if isinstance(writer, EncoderDecoderWriter):
        return encoder_decoder_prompt(model, writer, inputs, config)
    return decoder_prompt(model, writer, inputs, config)


def decoder_prompt(model: Model, writer: Writer, inputs: Inputs, config: GenerationConfig) -> Prompt:
    """The prompt of a decoder-only model: ids, or embeddings, or the token that begins texts."""
    embeds = inputs.get("inputs_embeds")
    ids = decoder_ids(inputs, config)
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = guess_mask(ids, config) if ids.shape[1] else np.ones(np.shape(embeds)[:2], bool)
    mask = np.asarray(mask)
    length = ids.shape[1] if embeds is None else np.shape(embeds)[1]
    if mask.ndim != 2 or mask.shape != (len(ids), length):
        raise ValueError(f"attention_mask has shape {mask.shape}; expected {(len(ids), length)}, as the prompt")
    refuse_types(inputs)
    width = length_bucket(max(length, ids.shape[1])) if writer.padded else max(length, ids.shape[1])
    rows = row_bucket(len(ids))
    extra = beside(inputs, rows)
    tokens = left(ids, width, filler(writer, config))
    tokens = more_rows(tokens, rows)
    if embeds is not None:
        extra["inputs_embeds"] = more_rows(left(np.asarray(embeds), width, 0), rows)
    if writer.image_token is not None and "pixel_values" in inputs:
        extra["pixel_values"] = np.asarray(inputs["pixel_values"])
        # Copies of a row must not ask for more images than there are.
        copies = tokens[len(ids) :]
        tokens[len(ids) :] = np.where(copies == writer.image_token, filler(writer, config), copies)
    start = np.int32(width - ids.shape[1])
    return Prompt(
        tokens=tokens,
        **place(writer, mask, inputs.get("position_ids"), width, rows),
        start=start,
        rows=np.int32(len(ids)),
        extra=extra,
        encoder_tokens=tokens if ids.shape[1] else None,
        encoder_real=np.arange(width) >= start if ids.shape[1] else None,
    )


def decoder_ids(inputs: Inputs, config: GenerationConfig) -> np.ndarray:
    """Ids [B,T] of the prompt; none for embeddings alone, and the token that begins texts when nothing is given."""
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if ids is not None:
        return whole_numbers("input_ids", ids)
    if embeds is not None:
        return np.zeros((np.shape(embeds)[0], 0), np.int32)
    if config.bos_token_id is None:
        raise ValueError("generate needs input_ids, or bos_token_id to begin with; found neither")
    batch = next((np.shape(v)[0] for v in inputs.values() if np.ndim(v)), 1)
    return np.full((batch, 1), config.bos_token_id, np.int32)


def encoder_decoder_prompt(model: Model, writer: Writer, inputs: Inputs, config: GenerationConfig) -> Prompt:
    """The prompt of an encoder-decoder: what the encoder made of its input, and the decoder's first tokens."""
    encoded, mask, source, length = encode(model, writer, inputs, config)
    batch = next(np.shape(v)[0] for v in (*inputs.values(), encoded.last_hidden_state) if np.ndim(v))
    ids, seen = first_tokens(model, inputs, config, batch)
    width, rows = length_bucket(ids.shape[1], least=1), row_bucket(batch)
    extra: dict[str, Any] = {"encoder_outputs": encoded}
    if mask is not None:
        extra["attention_mask"] = mask
    return Prompt(
        tokens=more_rows(left(ids, width, 0), rows),
        **place(writer, seen, inputs.get("decoder_position_ids"), width, rows),
        start=np.int32(width - ids.shape[1]),
        rows=np.int32(batch),
        extra=extra,
        encoder_tokens=source,
        encoder_real=None if source is None else np.arange(source.shape[1]) < length,
    )


def encode(model: Model, writer: Writer, inputs: Inputs, config: GenerationConfig) -> tuple:
    """The encoder's output [B',S',D], its mask (None for speech), its tokens, and S."""
    asked = {f"output_{name}": True for name in writer.record}
    mask = inputs.get("attention_mask")
    given = inputs.get("encoder_outputs")
    if given is not None:
        states = as_output(given)
        rows = row_bucket(len(states.last_hidden_state))
        states = jax.tree.map(lambda x: more_rows(np.asarray(x), rows), states)
        text = "input_features" not in inputs and hasattr(model.config, "vocab_size") and mask is not None
        mask = more_rows(np.asarray(mask).astype(bool), rows) if text else None
        return BaseModelOutput(states.last_hidden_state), mask, None, states.last_hidden_state.shape[1]
    if "input_features" in inputs:
        features = np.asarray(inputs["input_features"])
        out = model(input_features=more_rows(features, row_bucket(len(features))), method="encode", **asked)
        return out, None, None, out.last_hidden_state.shape[1]
    name = "inputs_embeds" if "inputs_embeds" in inputs else "input_ids"
    if name not in inputs:
        if config.bos_token_id is None:
            raise ValueError("generate needs the encoder's input: input_ids, inputs_embeds, or encoder_outputs")
        inputs = {**inputs, name: np.full((1, 1), config.bos_token_id)}
    value = np.asarray(inputs[name]) if name == "inputs_embeds" else whole_numbers(name, inputs[name])
    length, rows = value.shape[1], row_bucket(len(value))
    mask = np.ones((len(value), length), bool) if mask is None else np.asarray(mask).astype(bool)
    if mask.shape != value.shape[:2]:
        raise ValueError(f"attention_mask has shape {mask.shape}; expected {value.shape[:2]}, as {name}")
    width = length_bucket(length)
    value, mask = (more_rows(right(x, width), rows) for x in (value, mask))
    out = model(**{name: value}, attention_mask=mask, method="encode", **asked)
    return out, mask, value if name == "input_ids" else None, length


def first_tokens(model: Model, inputs: Inputs, config: GenerationConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The decoder's prompt [B,P] and its mask; it begins with the start token, whatever the caller gave."""
    start = config.decoder_start_token_id
    start = config.bos_token_id if start is None else start
    if start is None:
        raise ConfigError("an encoder-decoder needs decoder_start_token_id (or bos_token_id) to begin with; set one")
    begin = np.broadcast_to(np.asarray(start, np.int32).reshape(-1, 1), (batch, 1))
    ids = inputs.get("decoder_input_ids")
    if ids is None and "input_ids" in inputs and ("input_features" in inputs or "inputs_embeds" in inputs):
        ids = inputs["input_ids"]
    if ids is None:
        return begin, np.ones((batch, 1), bool)
    ids = whole_numbers("decoder_input_ids", ids)
    if len(ids) == 1 and batch > 1:
        ids = np.repeat(ids, batch, axis=0)
    mask = inputs.get("decoder_attention_mask")
    mask = np.ones(ids.shape, bool) if mask is None else np.asarray(mask).astype(bool)
    if model.config.model_type != "whisper" and (ids[:, :1] != begin).all():
        ids, mask = np.concatenate([begin, ids], 1), np.pad(mask, ((0, 0), (1, 0)), constant_values=True)
    return ids, mask


def place(writer: Writer, mask: np.ndarray, positions: Any, width: int, rows: int) -> dict[str, Any]:
    """Mask, positions and their shift for a prompt whose mask is [B,P], in a bucket of `width` columns."""
    mask = mask.astype(bool)
    if positions is not None:
        at = np.broadcast_to(np.asarray(positions), mask.shape)
    elif writer.positions == "mask":
        at = np.where(mask, np.cumsum(mask, axis=1) - 1, 0)
    else:
        at = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    at = more_rows(left(at.astype(np.int32), width, 0), rows)
    real = more_rows(left(mask, width, False), rows)
    return {"real": real, "positions": at, "shift": (at[:, -1] + 1 - width).astype(np.int32)}


def guess_mask(ids: np.ndarray, config: GenerationConfig) -> np.ndarray:
    """Padding is what equals the padding token, unless that ends texts as well."""
    pad = config.pad
    if pad is None or pad in config.eos:
        return np.ones(ids.shape, bool)
    return ids != pad


def beside(inputs: Inputs, rows: int) -> dict[str, Any]:
    """What a decoder looks at besides its own text, in buckets of rows and lengths."""
    out = {name: np.asarray(inputs[name]) for name in BESIDE if name in inputs}
    states = next((out[n] for n in BESIDE[:2] if n in out), None)
    if states is None:
        return {}
    mask = out.get("encoder_attention_mask")
    out["encoder_attention_mask"] = np.ones(states.shape[:2], bool) if mask is None else mask.astype(bool)
    width = length_bucket(states.shape[1])
    return {name: more_rows(right(x, width), rows) for name, x in out.items()}


def refuse_types(inputs: Inputs) -> None:
    """Token types other than zeros would have to go on with the text, which is not done."""
    types = inputs.get("token_type_ids")
    if types is not None and np.any(np.asarray(types)):
        raise ValueError("generate takes token_type_ids of zeros only; leave them out, or call the model in a loop")


def filler(writer: Writer, config: GenerationConfig) -> int:
    """A token for padding of our own; any will do but an image's."""
    token = config.pad or 0
    return token if token != writer.image_token else (1 if writer.image_token == 0 else 0)


def whole_numbers(name: str, ids: Any) -> np.ndarray:
    """Ids [B,T] as int32; one text may come without its batch axis. Raises ValueError otherwise."""
    ids = np.asarray(ids)
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or not ids.size:
        raise ValueError(f"{name} have shape {ids.shape} and dtype {ids.dtype}; expected integers [B,T], one at least")
    return ids.astype(np.int32)


def left(x: np.ndarray, width: int, value: Any) -> np.ndarray:
    """Padded to `width` columns on the left."""
    return np.pad(x, ((0, 0), (width - x.shape[1], 0), *((0, 0),) * (x.ndim - 2)), constant_values=value)


def right(x: np.ndarray, width: int) -> np.ndarray:
    """Padded to `width` columns on the right, with zeros."""
    return np.pad(x, ((0, 0), (0, width - x.shape[1]), *((0, 0),) * (x.ndim - 2)))


def more_rows(x: np.ndarray, rows: int) -> np.ndarray:
    """The last row repeated until there are `rows`; always a fresh array."""
    return x[np.minimum(np.arange(rows), len(x) - 1)]
