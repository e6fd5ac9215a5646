"""Writer: how a model writes. What it starts from, its first call, and the calls that add tokens, as pure functions.

A prompt is padded on the left to a bucket of lengths and its batch to a bucket of rows, so that few programs are
compiled. The padding is hidden by the mask, and positions do not count it.
"""

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.rows import paged, quantized, without_rings
from jaxformers.core.sharding import use_mesh
from jaxformers.core.state import Cache
from jaxformers.generation.seen import Seen
from jaxformers.hub.model import Model
from jaxformers.nn.encoder import TextEncoder
from jaxformers.nn.seq2seq import CrossDecoder, Seq2Seq
from jaxformers.nn.speech import SpeechSeq2Seq

if TYPE_CHECKING:
    from jaxformers.generation.config import GenerationConfig

# What a call returns besides scores and cache, by who asks; encoder-decoders say which side they speak of.
Records = dict[str, Any]
# How a cache keeps what full attention wrote, where it is not dense.
KINDS = {"quantized": quantized, "paged": paged}


@struct.dataclass
class Prompt:
    """What a model starts from, in a bucket: P tokens for each of B rows. Rows beyond `rows` are copies of the last."""

    tokens: jax.Array  # Int [B,P]: the decoder's
    real: jax.Array  # Bool [B,P]: what attention may see; False in all padding
    positions: jax.Array  # Int [B,P]
    shift: jax.Array  # Int [B]: position of a new token minus its slot
    start: jax.Array  # Int []: the first column of `tokens` that the caller gave
    rows: jax.Array  # Int []: how many rows the caller gave
    extra: dict[str, Any]  # what the first call needs besides: encoder_outputs, pixel_values, inputs_embeds, ...
    encoder_tokens: jax.Array | None = None  # Int [B,S]: what an encoder read, else the prompt itself; for `Seen`
    encoder_real: jax.Array | None = None  # Bool [S]: columns of encoder_tokens that the caller gave

    @property
    def width(self) -> int:
        """Columns of the bucket; the first new token takes this column."""
        return self.tokens.shape[1]

    def seen(self, length: int) -> Seen:
        """What transforms see before the first token, in a buffer of `length` columns."""
        tokens = jnp.pad(jnp.asarray(self.tokens), ((0, 0), (0, length - self.width)))
        at = jnp.asarray(self.width, jnp.int32)
        return Seen(tokens, jnp.asarray(self.start, jnp.int32), at, at, self.encoder_tokens, self.encoder_real)


@dataclass(frozen=True)
class Writer:
    """How a decoder-only model writes. Made by `writer_of`; static and hashable.

    positions: "mask", they count real tokens; "columns", they count the caller's padding too; "none", there are none.
    cache: "dynamic", or one of `KINDS`, for keys and values in int8 or in pages. rings: whether windows keep their own
    tokens only, which saves memory and cannot go back. record: what calls return besides, "hidden_states" or
    "attentions".
    """

    positions: str = "mask"
    cache: str = "dynamic"
    rings: bool = True
    record: tuple[str, ...] = ()
    padded: bool = True  # whether padding on the left leaves a recurrence as it was
    image_token: int | None = None
    reread: int | None = None  # after so many tokens the cache is made anew: rotations of all of them change
    sides: int = 1  # 2: the prompt's rows are followed by as many of a negative prompt
    options: tuple[tuple[str, Any], ...] = field(default=())  # further static arguments of every call

    def prompt(self, model: Model, inputs: dict[str, Any], config: "GenerationConfig") -> Prompt:
        """The caller's arrays as a prompt in its bucket; runs the encoder where there is one. On the host."""
        from jaxformers.generation.prompts import read_prompt

        return read_prompt(model, self, inputs, config)

    def empty(self, model: Model, rows: int, capacity: int, dtype: Any, encoder_length: int = 0) -> Cache:
        """A cache for `capacity` tokens."""
        extra = {"encoder_length": encoder_length} if encoder_length else {}
        cache = model.init_cache(rows, capacity, dtype, **extra)
        if not self.rings or "attentions" in self.record:
            cache = without_rings(cache)
        return KINDS[self.cache](cache) if self.cache in KINDS else cache

    def prefill(
        self, model: Model, prompt: Prompt, capacity: int, dtype: Any = None
    ) -> tuple[jax.Array, Cache, Records]:
        """Read the prompt: scores [B,V] float32 of the next token, the cache, and records. Pure."""
        cache = self.empty(model, len(prompt.tokens), capacity, dtype, encoder_length(prompt.extra))
        given: dict[str, Any] = dict(prompt.extra)
        if "inputs_embeds" not in given:
            given["input_ids"] = prompt.tokens
        given |= {"attention_mask": prompt.real, **self.placed(prompt.positions)}
        out = self.call(model, given, cache.replace(shift=prompt.shift), {"logits_to_keep": 1})
        return self.last(out), out.past_key_values, self.records(out)

    def step(self, model: Model, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache, Records]:
        """Read tokens [B,T] more: scores [B,T,V] float32 of what follows each, the cache, and records. Pure."""
        out = self.call(model, {"input_ids": tokens, **self.placed(self.next_positions(tokens, cache))}, cache, {})
        return out.logits.astype(jnp.float32), out.past_key_values, self.records(out)

    def next_positions(self, tokens: jax.Array, cache: Cache) -> jax.Array:
        """Positions [B,T] of tokens that come next."""
        slots = cache.index + jnp.arange(tokens.shape[1])
        return jnp.maximum(slots[None] + cache.shift[:, None], 0)

    def placed(self, positions: jax.Array) -> dict[str, jax.Array]:
        """The positions as the model's argument."""
        return {} if self.positions == "none" else {"position_ids": positions}

    def call(self, model: Model, given: dict[str, Any], cache: Cache, options: dict[str, Any]) -> Any:
        """The module's own function, in the model's compute dtype and on its mesh."""
        static = model._static
        collections = model.cast(static.compute_dtype).variables
        asked = {f"output_{name}": True for name in self.record}
        with use_mesh(static.mesh, static.rules):
            return static.module.apply(
                collections, **given, past_key_values=cache, **options, **asked, **dict(self.options)
            )

    def last(self, out: Any) -> jax.Array:
        """Scores [B,V] after the last token, in float32."""
        return out.logits[:, -1].astype(jnp.float32)

    def records(self, out: Any) -> Records:
        """What was asked for, under transformers' names."""
        names = (*self.record, *(("cross_attentions",) if "attentions" in self.record else ()))
        return {name: getattr(out, name) for name in names if getattr(out, name, None) is not None}


@dataclass(frozen=True)
class EncoderDecoderWriter(Writer):
    """How a decoder writes that looks at an encoder's output, which `prompt.extra` holds as encoder_outputs."""

    positions: str = "columns"

    def prefill(
        self, model: Model, prompt: Prompt, capacity: int, dtype: Any = None
    ) -> tuple[jax.Array, Cache, Records]:
        """Read the decoder's prompt and the encoder's output."""
        cache = self.empty(model, len(prompt.tokens), capacity, dtype, encoder_length(prompt.extra))
        given = {
            **prompt.extra,
            "decoder_input_ids": prompt.tokens,
            "decoder_attention_mask": prompt.real,
            **self.placed(prompt.positions),
        }
        out = self.call(model, given, cache.replace(shift=prompt.shift), {"logits_to_keep": 1})
        return self.last(out), out.past_key_values, self.records(out)

    def step(self, model: Model, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache, Records]:
        given = {"decoder_input_ids": tokens, **self.placed(self.next_positions(tokens, cache))}
        out = self.call(model, given, cache, {})
        return out.logits.astype(jnp.float32), out.past_key_values, self.records(out)

    def placed(self, positions: jax.Array) -> dict[str, jax.Array]:
        return {} if self.positions == "none" else {"decoder_position_ids": positions}

    def records(self, out: Any) -> Records:
        names = [f"decoder_{name}" for name in self.record]
        names += ["cross_attentions"] if "attentions" in self.record else []
        return {name: getattr(out, name) for name in names if getattr(out, name, None) is not None}


def encoder_length(extra: dict[str, Any]) -> int:
    """How long the encoder's output is that the first call brings; 0 for none."""
    for name in ("encoder_outputs", "encoder_hidden_states"):
        if name in extra:
            states = extra[name]
            return getattr(states, "last_hidden_state", states).shape[1]
    return 0


def writer_of(model: Model, **fields: Any) -> Writer:
    """How this model writes; `fields` are those of `Writer`. Raises TypeError for a model that does not decode."""
    if not hasattr(model.module, "init_cache"):
        raise TypeError(
            f"{model.config.model_type} with task {model.task} does not write: load it as a language model, "
            "with AutoModelForCausalLM or AutoModelForSeq2SeqLM"
        )
    core = backbone(model.module)
    if isinstance(core, Seq2Seq):
        counts = isinstance(core, SpeechSeq2Seq)
        return EncoderDecoderWriter(**{"positions": "mask" if counts else "columns", **fields})
    if isinstance(core, TextEncoder) and not core.causal:
        raise TypeError(f"{model.config.model_type} reads both ways: set is_decoder=True in its config to let it write")
    if isinstance(core, CrossDecoder):
        kind = "columns"
    else:
        kind = "mask" if "position_ids" in inspect.signature(type(core).__call__).parameters else "none"
    image = getattr(core, "image_token", None)
    made = {"positions": kind, "padded": neutral_padding(model.config), "image_token": image}
    return Writer(**{**made, "reread": turning_point(model.config), **fields})


def backbone(module: nn.Module) -> nn.Module:
    """The model under a head."""
    inner = getattr(module, "backbone", None)
    return backbone(inner) if isinstance(inner, nn.Module) else module


def turning_point(config: Any) -> int | None:
    """After how many tokens a type with two sets of rotary frequencies changes to the other, for earlier tokens too."""
    return getattr(config, "original_max_position_embeddings", None) if config.model_type == "phi3" else None


def neutral_padding(config: Any) -> bool:
    """Whether masked tokens leave a model's recurrent states as they were: not if a bias reaches the convolution."""
    return not (
        config.model_type in ("mamba", "mamba2") and config.use_bias or getattr(config, "mamba_proj_bias", False)
    )
