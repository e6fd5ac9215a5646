"""wav2vec 2.0: older files, what training hides at random, and quantised frames."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.errors import CheckpointError
from jaxformers.models import read_config
from jaxformers.nn.spec_augment import Spans
from tests.models.test_multimodal import fresh, rename

SIZES = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, conv_dim=(8, 8),
    conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    num_codevectors_per_group=5, codevector_dim=8, proj_codevector_dim=6, mask_time_length=4,
)  # fmt: skip
SOUND = np.random.RandomState(0).randn(2, 300).astype(np.float32)


def test_weight_norm_of_older_files(tmp_path: Path) -> None:
    """Older files name the two halves of the position kernel otherwise."""
    model = fresh("wav2vec2", tmp_path, **SIZES)
    conv = "encoder.pos_conv_embed.conv."
    rename(
        tmp_path,
        {
            conv + "parametrizations.weight.original0": conv + "weight_g",
            conv + "parametrizations.weight.original1": conv + "weight_v",
        },
    )
    again = jf.AutoModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(SOUND).last_hidden_state, model(SOUND).last_hidden_state)


def test_checkpoints_without_the_mask_vector(tmp_path: Path) -> None:
    """Checkpoints tuned for letters may lack the mask vector; their base loads alone and under a new head."""
    model = fresh("wav2vec2", tmp_path, "CTC", **SIZES)
    rename(tmp_path, {"wav2vec2.masked_spec_embed": "quantizer.codevectors"})
    np.testing.assert_array_equal(jf.AutoModelForCTC.from_pretrained(tmp_path)(SOUND).logits, model(SOUND).logits)
    base = jf.AutoModel.from_pretrained(tmp_path)
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(CheckpointError, match="key="):
        jf.AutoModelForAudioClassification.from_pretrained(tmp_path / "base")
    classifier = jf.AutoModelForAudioClassification.from_pretrained(tmp_path / "base", key=jax.random.key(1))
    assert classifier(SOUND).logits.shape == (2, 2)


def test_training_hides_and_skips() -> None:
    """In training frames, features and layers go missing at random; in evaluation never."""
    config = read_config({"model_type": "wav2vec2", **SIZES, "mask_feature_prob": 0.3, "mask_feature_length": 2})
    model = jf.Model.init(config, jax.random.key(0))
    one, two = (model(SOUND, train=True, key=jax.random.key(n)).last_hidden_state for n in (1, 2))
    assert not np.allclose(one, two)
    again = model(SOUND, train=True, key=jax.random.key(1)).last_hidden_state
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(model(SOUND).last_hidden_state, model(SOUND).last_hidden_state)


def test_adapter_with_layerdrop_is_refused() -> None:
    """Layers that shorten the sequence cannot be skipped in a compiled program."""
    config = read_config({"model_type": "wav2vec2", **SIZES, "add_adapter": True})
    model = jf.Model.init(config, jax.random.key(0))
    with pytest.raises(ValueError, match="layerdrop"):
        model(SOUND, train=True, key=jax.random.key(0))


def test_spans_cover_what_was_asked() -> None:
    """Spans have their length, stay among real entries and cover about the fraction asked for."""
    lengths = jnp.array([200, 120, 3])
    spans = Spans(0.2, 10, 0)
    draws = np.stack([spans(jax.random.key(n), 200, lengths) for n in range(200)])
    assert not draws[:, 1, 120:].any() and not draws[:, 2].any()
    # Spans that overlap cover less than their sum.
    assert 0.15 < draws[:, 0].mean() < 0.2 and 0.14 < draws[:, 1, :120].mean() < 0.2
    for row in draws[:, 0]:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        assert ((edges[1::2] - edges[::2]) >= 10).all()
    assert (np.asarray(Spans(0.0, 4, 2)(jax.random.key(0), 50, jnp.array([50]))).sum() >= 5).all()


def test_drawn_codes_have_gradients() -> None:
    """In training codes are drawn, and the gradient passes through the draw to the scores."""
    config = read_config({"model_type": "wav2vec2", **SIZES, "layerdrop": 0.0})
    model = jf.Model.init(config, jax.random.key(0), task="PreTraining")
    frames = model(SOUND).projected_states.shape[1]
    hidden = np.random.RandomState(0).rand(2, frames) < 0.5
    others = np.random.RandomState(1).randint(0, 2 * frames, (2, frames, 4))

    def loss(m):
        out = m(
            SOUND, mask_time_indices=hidden, sampled_negative_indices=others, train=True, key=jax.random.key(3),
            gumbel_temperature=jnp.asarray(1.5),
        )  # fmt: skip
        return out.loss

    grads = jax.grad(loss)(model).params
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["quantizer"]["scores"]))
