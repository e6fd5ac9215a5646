"""Log-mel on the device equals the host's, in float64 wherever there is such a transform."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import soundfile

from jaxformers.ops.dispatch import use
from jaxformers.ops.mel import log_mel
from jaxformers.processing.audio.whisper_features import WhisperFeatureExtractor

SPEECH = Path(__file__).parent.parent / "data" / "speech.flac"


def sounds() -> np.ndarray:
    speech = soundfile.read(SPEECH, dtype="float32")[0][:32000]
    t = np.arange(32000) / 16000
    chirp = 0.5 * np.sin(2 * np.pi * 2000 * t * t)
    silence = np.zeros(32000)
    return np.stack([speech, chirp, silence]).astype(np.float32)


def test_equals_the_host():
    waves = sounds()
    want = WhisperFeatureExtractor(chunk_length=2)(waves, sampling_rate=16000).input_features
    got = log_mel(waves)
    assert got.dtype == jnp.float32 and got.shape == (3, 80, 200)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_other_sizes():
    options = dict(feature_size=20, n_fft=256, hop_length=100)
    want = WhisperFeatureExtractor(chunk_length=2, **options)(sounds(), sampling_rate=16000).input_features
    np.testing.assert_allclose(log_mel(sounds(), mels=20, length=256, hop=100), want, atol=1e-6)


def test_float32_for_devices_without_more():
    want = log_mel(sounds())
    jax.clear_caches()
    with use(mel_power="reference"):
        got = log_mel(sounds())
    np.testing.assert_allclose(got, want, atol=2e-4)  # transformers' own float32 path is off by as much
    jax.clear_caches()


def test_gradients_flow():
    """In the wave's own type, and along the direction that differences show."""
    wave = sounds()[:1, 8000:11200]
    loss = jax.jit(lambda w: (log_mel(w) ** 2).sum())
    gradient = jax.grad(loss)(wave)
    assert gradient.dtype == jnp.float32
    step = 1e-4 * gradient / jnp.linalg.norm(gradient)  # the steepest direction, where differences are large
    slope = (loss(wave + step) - loss(wave - step)) / 2
    np.testing.assert_allclose(slope, (gradient * step).sum(), rtol=2e-2)
