"""Whisper's log-mel features on the device: the picture that `processing.audio` makes, jitted for batches of waves."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxformers.ops.dispatch import Op
from jaxformers.processing.audio.mel import MelBank, mel_filters
from jaxformers.processing.audio.spectrogram import FLOOR, RANGE, hann


def frame(waves: jax.Array, length: int, hop: int) -> jax.Array:
    """Cut waves [B, n] into overlapping windows [B, n // hop, length], centred on every hop; ends are mirrored."""
    count, rows = waves.shape[-1] // hop, -(-length // hop)
    padded = jnp.pad(waves, ((0, 0), (length // 2, length // 2)), mode="reflect")
    padded = jnp.pad(padded, ((0, 0), (0, max(0, (count + rows) * hop - padded.shape[-1]))))
    # Rows of whole hops side by side: a gather by index would read every sample by itself.
    hops = padded[:, : (count + rows) * hop].reshape(len(waves), count + rows, hop)
    return jnp.concatenate([hops[:, i : i + count] for i in range(rows)], axis=-1)[..., :length]


def mel_power_in(dtype: jnp.dtype, frames: jax.Array, bank: MelBank) -> jax.Array:
    """Return the power [B, mels, T] in every mel band of frames [B, T, length], computed in one type."""
    window, filters = (jnp.asarray(constant, dtype) for constant in (hann(frames.shape[-1]), mel_filters(bank)))
    spectrum = jnp.fft.rfft(frames.astype(dtype) * window)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.einsum("mf,btf->bmt", filters, power, precision=jax.lax.Precision.HIGHEST)


def mel_power_single(frames: jax.Array, bank: MelBank) -> jax.Array:
    """The power in float32: a band 60 dB below a loud one of the same frame is off by about a thousandth."""
    return mel_power_in(jnp.float32, frames, bank)


mel_power = Op("mel_power", mel_power_single)


@mel_power.register("double", platforms=("cpu", "gpu", "cuda", "rocm"), priority=1)
@partial(jax.custom_jvp, nondiff_argnums=(1,))
def mel_power_double(frames: jax.Array, bank: MelBank) -> jax.Array:
    """The power by way of float64, as the host computes it; TPUs have no such transform."""
    with jax.enable_x64(True):
        return jax.lax.convert_element_type(mel_power_in(jnp.float64, frames, bank), jnp.float32)


@mel_power_double.defjvp
def _mel_power_jvp(bank: MelBank, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """Derivatives need no float64, which jax cannot carry through a function of float32."""
    _, tangent = jax.jvp(lambda frames: mel_power_single(frames, bank), primals, tangents)
    return mel_power_double(primals[0], bank), tangent


@partial(jax.jit, static_argnames=("mels", "length", "hop", "sampling_rate"))
def log_mel(
    waves: jax.Array, *, mels: int = 80, length: int = 400, hop: int = 160, sampling_rate: int = 16000
) -> jax.Array:
    """Return features [B, mels, n // hop], float32, of waves [B, n] that are padded already.

    `length` and `hop` are in samples. Each wave is floored eight decades below its own loudest band.
    """
    frames = frame(waves.astype(jnp.float32), length, hop)
    picture = jnp.log10(jnp.maximum(mel_power(frames, MelBank(mels, 1 + length // 2, sampling_rate)), FLOOR))
    loudest = picture.max(axis=(1, 2), keepdims=True)
    return (jnp.maximum(picture, loudest - RANGE) + 4.0) / 4.0
