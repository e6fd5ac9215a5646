"""An encoder's output as a decoder takes it: in any form, remembered in a cache, padded to the cache's length."""

import jax
import jax.numpy as jnp

from jaxformers.core.outputs import BaseModelOutput
from jaxformers.core.state import Cache


def remember_encoder(cache: Cache, encoder: jax.Array | None, mask: jax.Array | None) -> tuple[Cache, jax.Array | None]:
    """Note in the cache which encoded tokens are real, and pad the encoder's output to the cache's length.

    Raises ValueError when it does not fit the cache.
    """
    size = 0 if cache.encoder_valid is None else cache.encoder_valid.shape[1]
    if mask is not None and mask.ndim != 2:
        raise ValueError(f"attention_mask has shape {mask.shape}; with a cache expected [B,S]")
    if encoder is None:
        if mask is None or not size:
            return cache, None
        given = mask.shape[1]
    else:
        given = encoder.shape[1]
    if given > size:
        raise ValueError(
            f"the encoder's output has length {given}, the cache has room for {size}; "
            f"make it with init_cache(batch, length, encoder_length={given})"
        )
    if mask is not None and mask.shape[1] != given:
        raise ValueError(f"attention_mask has shape {mask.shape}; expected [B,{given}] as the encoder's output")
    batch = cache.valid.shape[0]
    real = jnp.ones((batch, given), bool) if mask is None else mask.astype(bool)
    rest = size - given
    cache = cache.replace(encoder_valid=jnp.pad(real, ((0, 0), (0, rest))))
    return cache, None if encoder is None else jnp.pad(encoder, ((0, 0), (0, rest), (0, 0)))


def as_output(given: BaseModelOutput | tuple | list | jax.Array) -> BaseModelOutput:
    """The encoder's output in whatever form the caller has it: ours, a tuple as transformers', or hidden states."""
    if isinstance(given, BaseModelOutput):
        return given
    if isinstance(given, (tuple, list)):
        return BaseModelOutput(
            last_hidden_state=given[0],
            hidden_states=given[1] if len(given) > 1 else None,
            attentions=given[2] if len(given) > 2 else None,
        )
    return BaseModelOutput(last_hidden_state=given)
