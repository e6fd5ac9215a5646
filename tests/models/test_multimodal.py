"""Models made of others: parts of whole checkpoints, older file layouts, features of one side, and images in texts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.errors import CheckpointError, ConfigError
from jaxformers.hub.checkpoint import open_checkpoint
from jaxformers.hub.safetensors import write_sharded
from jaxformers.models import read_config
from jaxformers.nn.vision_language import fill_places

TEXT = dict(
    vocab_size=50, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, eos_token_id=49,
    max_position_embeddings=12,
)  # fmt: skip
IMAGE = dict(
    hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
)
LLAMA = dict(
    model_type="llama", vocab_size=50, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2
)
PIXELS = np.random.RandomState(0).randn(2, 3, 8, 8).astype(np.float32)
IDS = np.array([[3, 4, 49, 5], [7, 49, 6, 9]])


def fresh(model_type: str, folder: Path, task: str | None = None, **fields) -> jf.Model:
    """A tiny model, saved in `folder`."""
    config = read_config({"model_type": model_type, **fields})
    model = jf.Model.init(config, jax.random.key(0), task=task)
    model.save_pretrained(folder)
    return model


def rename(folder: Path, changes: dict[str, str]) -> None:
    """Write the tensors of a folder anew, with the beginnings of their names changed."""
    tensors = {k: np.array(v) for k, v in open_checkpoint(folder).items()}
    for file in folder.glob("*.safetensors*"):
        file.unlink()

    def name(key: str) -> str:
        start = next((s for s in changes if key.startswith(s)), "")
        return changes.get(start, "") + key.removeprefix(start)

    assert any(name(k) != k for k in tensors)
    write_sharded(folder, {name(k): v for k, v in tensors.items()})


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_of_a_whole_checkpoint(kind: str, tmp_path: Path) -> None:
    """Each tower loads from the checkpoint of both, and gives what the whole model has of it."""
    both = fresh(kind, tmp_path, text_config=TEXT, vision_config=IMAGE, projection_dim=6)
    out = both(input_ids=IDS, pixel_values=PIXELS)
    text = jf.AutoModel.from_pretrained(tmp_path, config=both.config.text_config)(IDS)
    image = jf.AutoModel.from_pretrained(tmp_path, config=both.config.vision_config)(PIXELS)
    np.testing.assert_allclose(text.last_hidden_state, out.text_model_output.last_hidden_state, atol=1e-6)
    np.testing.assert_allclose(image.last_hidden_state, out.vision_model_output.last_hidden_state, atol=1e-6)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_features_of_one_side(kind: str, tmp_path: Path) -> None:
    """The features of texts and of images, through the model and through the module."""
    model = fresh(kind, tmp_path, text_config=TEXT, vision_config=IMAGE, projection_dim=6)
    out = model(input_ids=IDS, pixel_values=PIXELS)
    texts = model.get_text_features(IDS).pooler_output
    images = model.get_image_features(pixel_values=PIXELS).pooler_output
    pure = model.module.apply({"params": model.params}, IDS, method="get_text_features").pooler_output
    np.testing.assert_allclose(pure, texts, rtol=1e-5, atol=1e-6)  # one is jitted, the other not
    np.testing.assert_allclose(texts / np.linalg.norm(texts, axis=1, keepdims=True), out.text_embeds, atol=1e-6)
    np.testing.assert_allclose(images / np.linalg.norm(images, axis=1, keepdims=True), out.image_embeds, atol=1e-6)


def test_image_classifier_from_both_towers(tmp_path: Path) -> None:
    """A classifier takes the image tower and gets a new head; the tower loads back from what it saves."""
    both = fresh("clip", tmp_path / "both", text_config=TEXT, vision_config=IMAGE)
    with pytest.raises(CheckpointError, match="key="):
        jf.AutoModelForImageClassification.from_pretrained(tmp_path / "both", num_labels=3)
    model = jf.AutoModelForImageClassification.from_pretrained(tmp_path / "both", num_labels=3, key=jax.random.key(1))
    assert model(PIXELS).logits.shape == (2, 3)
    model.save_pretrained(tmp_path / "classifier")
    tower = jf.AutoModel.from_pretrained(tmp_path / "classifier", config=both.config.vision_config)
    expected = both(input_ids=IDS, pixel_values=PIXELS).vision_model_output.last_hidden_state
    np.testing.assert_allclose(tower(PIXELS).last_hidden_state, expected, atol=1e-6)


def test_tower_under_its_old_prefix(tmp_path: Path) -> None:
    """Files of a lone tower used to hold it under its name."""
    model = fresh("clip_vision_model", tmp_path, **IMAGE)
    rename(tmp_path, {"": "vision_model."})
    np.testing.assert_array_equal(
        jf.AutoModel.from_pretrained(tmp_path)(PIXELS).pooler_output, model(PIXELS).pooler_output
    )


def test_old_configs_of_towers() -> None:
    """`text_config_dict` wins over `text_config`, defaults included; the old wrong end of text means the highest id."""
    raw = {"model_type": "clip", "text_config": {**TEXT, "eos_token_id": 2}, "text_config_dict": {"hidden_size": 24}}
    config = read_config(raw)
    assert config.text_config.hidden_size == 24 and config.text_config.vocab_size == 49408
    assert config.text_config.eos_token_id == 49407
    model = jf.Model.init(read_config({"model_type": "clip_text_model", **TEXT, "eos_token_id": 2}), jax.random.key(0))
    out = model(IDS)
    np.testing.assert_array_equal(out.pooler_output, np.asarray(out.last_hidden_state)[[0, 1], [2, 1]])


LAYOUTS = {
    "first": {"vision_tower.": "vision_tower.vision_model."},
    "memory": {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head": "lm_head",
        "vision_tower.": "model.vision_tower.vision_model.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
    "doubled": {"language_model.model.": "model.language_model.model.", "language_model.lm_head": "lm_head"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_llava_layouts(layout: str, tmp_path: Path) -> None:
    """Every layout that files have had reads to the same model, with its head and without."""
    vision = {"model_type": "clip_vision_model", **IMAGE}
    options = {"text_config": LLAMA, "vision_config": vision, "image_token_index": 40}
    model = fresh("llava", tmp_path, "ImageTextToText", **options)
    rename(tmp_path, LAYOUTS[layout])
    ids = np.array([[1, 40, 40, 40, 40, 2], [3, 4, 40, 40, 40, 40]])
    again = jf.AutoModelForImageTextToText.from_pretrained(tmp_path)
    expected = model(ids, pixel_values=PIXELS)
    np.testing.assert_array_equal(again(ids, pixel_values=PIXELS).logits, expected.logits)
    base = jf.AutoModel.from_pretrained(tmp_path)(ids, pixel_values=PIXELS)
    np.testing.assert_array_equal(base.image_hidden_states, expected.image_hidden_states)
    features = model.get_image_features(pixel_values=PIXELS).pooler_output
    np.testing.assert_allclose(features.reshape(8, 16), expected.image_hidden_states, atol=1e-6)


def test_places_are_filled_in_order() -> None:
    """Features go to the marked places row by row; a wrong number of them spoils everything rather than something."""
    where = jnp.array([[False, True, True], [True, False, False]])
    features = jnp.arange(1.0, 4.0)[:, None]
    assert fill_places(jnp.zeros((2, 3, 1)), where, features)[..., 0].tolist() == [[0, 1, 2], [3, 0, 0]]
    assert np.isnan(fill_places(jnp.zeros((2, 3, 1)), where, features[:2])).all()
    assert np.isnan(fill_places(jnp.zeros((2, 3, 1)), where, jnp.zeros((4, 1)))).all()


def test_what_cannot_be_compared_is_refused() -> None:
    """Towers of different widths, towers that pool nothing, and layers that do not exist."""
    with pytest.raises(ConfigError, match="projection_size"):
        jf.Model.init(
            read_config({"model_type": "siglip", "text_config": TEXT, "vision_config": {**IMAGE, "hidden_size": 24}}),
            jax.random.key(0),
        )
    with pytest.raises(ConfigError, match="vision_use_head"):
        config = {"model_type": "siglip", "text_config": TEXT, "vision_config": {**IMAGE, "vision_use_head": False}}
        jf.Model.init(read_config(config), jax.random.key(0))
    with pytest.raises(ConfigError, match="vision_feature_layer"):
        read_config({"model_type": "llava", "vision_config": IMAGE, "vision_feature_layer": 3})


def test_unread_keys_are_written_once() -> None:
    """Keys that no field reads come back beside the others, however often a config is read and written."""
    config = read_config({"model_type": "llava", "vision_config": {**IMAGE, "vocab_size": 7}, "maker": "me"})
    for _ in range(3):
        written = config.to_json()
        assert written["maker"] == "me" and written["vision_config"]["vocab_size"] == 7
        assert "extra" not in written and "extra" not in written["vision_config"]
        config = read_config(written)
