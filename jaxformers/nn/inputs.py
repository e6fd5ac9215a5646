"""From transformers' arguments to a Context: attention masks, positions and caches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxformers.core.context import Context
from jaxformers.core.mask import Mask
from jaxformers.core.state import Cache


def read_attention_mask(mask: jax.Array | None, **rules) -> Mask:
    """A Mask from [B,S] (1 is real) or [B,1|H,T,S] (True is visible). Raises ValueError on other ranks."""
    if mask is None:
        return Mask(**rules)
    mask = jnp.asarray(mask)
    if mask.ndim == 2:
        return Mask(keys=mask.astype(bool), **rules)
    if mask.ndim == 4 and not jnp.issubdtype(mask.dtype, jnp.floating):
        return Mask(dense=mask.astype(bool))  # transformers takes a 4-d mask as the whole truth
    raise ValueError(f"attention_mask has shape {mask.shape} and dtype {mask.dtype}; expected [B,S], or Bool [B,1,T,S]")


def cached_mask(cache: Cache, mask: jax.Array | None, length: int) -> jax.Array:
    """Which slots of the cache are real, Bool [B,S], after `length` new tokens.

    `mask` speaks of the new tokens ([B,length]) or of all slots from the first on ([B,n], n up to the cache's length).
    """
    batch, size = cache.valid.shape
    if length > size:
        raise ValueError(f"{length} tokens do not fit a cache of {size} slots; make it longer with init_cache")
    if mask is not None and (mask.ndim != 2 or mask.shape[1] > size):
        raise ValueError(
            f"attention_mask has shape {mask.shape}; with a cache of {size} slots expected [B,n], n <= {size}"
        )
    if mask is not None and mask.shape[1] != length:
        rest = jnp.ones((batch, size - mask.shape[1]), bool)
        return jnp.concatenate([mask.astype(bool), rest], axis=1)
    new = jnp.ones((batch, length), bool) if mask is None else mask.astype(bool)
    return jax.lax.dynamic_update_slice(cache.valid, new, (0, cache.index))


def decoder_context(
    length: int,
    attention_mask: jax.Array | None,
    position_ids: jax.Array | None,
    cache: Cache | None,
    *,
    causal: bool = True,
    packed: bool = False,
    segment_ids: jax.Array | None = None,
    positions: Callable[[jax.Array, jax.Array | None], jax.Array] | None = None,
    **fields,
) -> tuple[Context, Cache | None]:
    """The context of `length` new tokens, and the cache with its mask brought up to date.

    positions: how a model derives positions from (slots [T], attention mask); slots themselves by default. packed: read
    given positions that jump, without an attention mask, as several texts in a row, as transformers' decoders do.
    segment_ids: Int [B,T], the document of each token, 0 for padding: documents do not see each other, and positions
    that are not given begin anew with each.
    """
    rules = {"right": 0} if causal else {}
    if cache is None:
        slots = jnp.arange(length)
        mask = read_attention_mask(attention_mask, **rules)
        real = mask.keys
        if packed and attention_mask is None and position_ids is not None:
            texts = text_of_each(jnp.asarray(position_ids))
            mask = mask.replace(q_segments=texts, k_segments=texts)
        if segment_ids is not None:
            mask = mask.replace(q_segments=segment_ids, k_segments=segment_ids)
            if position_ids is None:
                alone = slots[None] if positions is None else positions(slots, None)
                position_ids = positions_in_segments(alone, jnp.asarray(segment_ids))
    elif segment_ids is not None:
        raise ValueError("segment_ids are for packed rows that are read at once; a cache holds one text in each row")
    else:
        slots = cache.index + jnp.arange(length)
        real = cached_mask(cache, attention_mask, length)
        mask = Mask(keys=real, **rules)
        cache = cache.replace(valid=real, index=cache.index + length)
    if position_ids is None:
        position_ids = slots[None] if positions is None else positions(slots, real)
    return Context(positions=jnp.asarray(position_ids), slots=slots, mask=mask, **fields), cache


def places_in_segments(segments: jax.Array) -> jax.Array:
    """How many tokens of its own document come before each token, Int [B,T]."""
    slots = jnp.arange(segments.shape[1])
    begins = jnp.diff(segments, prepend=segments[:, :1] - 1) != 0
    return slots - jax.lax.cummax(jnp.where(begins, slots, 0), axis=1)


def positions_in_segments(alone: jax.Array, segments: jax.Array) -> jax.Array:
    """The positions [B,T] that tokens of packed documents have in a row of their own, whose positions are `alone`."""
    alone = jnp.broadcast_to(alone, segments.shape)
    return jnp.take_along_axis(alone, places_in_segments(segments), axis=1)


def refuse_segments(ctx: Context, what: str) -> None:
    """Raise ValueError if rows are packed, for layers through which documents would see each other."""
    if ctx.mask.q_segments is not None:
        raise ValueError(f"segment_ids keep packed documents apart in attention alone, and this model has {what}")


def text_of_each(positions: jax.Array) -> jax.Array:
    """Number the texts packed in each row, Int [B,T]: a new one starts where a position does not follow the last."""
    jumps = jnp.diff(positions, prepend=positions[:, :1] - 1) != 1
    return jnp.cumsum(jumps, axis=-1)


def token_count(input_ids: jax.Array | None, inputs_embeds: jax.Array | None) -> int:
    """The number of new tokens. Raises ValueError unless exactly one of the two is given, with the right rank."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    given, rank, shape = (input_ids, 2, "[B,T]") if input_ids is not None else (inputs_embeds, 3, "[B,T,D]")
    if given.ndim != rank:
        raise ValueError(f"the input has shape {given.shape}; expected {shape}")
    if input_ids is not None and not jnp.issubdtype(input_ids.dtype, jnp.integer):
        raise ValueError(f"input_ids have dtype {input_ids.dtype}; expected integers")
    return given.shape[1]
