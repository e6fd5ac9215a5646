"""Processors load from the files that checkpoints have, give transformers' batches, and are read back by it."""

import json

import numpy as np
import pytest
import transformers
from PIL import Image
from tokenizers import AddedToken

import jaxformers as jf
from jaxformers.core.errors import CheckpointError, ConfigError, InputError
from tests.hub.processor_files import FILES
from tests.processing.zoo import ZOO, write

transformers.logging.set_verbosity_error()
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>\n{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_files(folder, model_type, raw):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "preprocessor_config.json").write_text(json.dumps(raw))
    return folder


def equal(ours, theirs):
    assert set(ours) == set(theirs)
    for name in theirs:
        assert len(ours[name]) == len(theirs[name])
        for a, b in zip(ours[name], theirs[name], strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)


def written(processor):
    """What a processor's own file says, without what only one library writes."""
    found = json.loads(json.dumps(processor.to_dict()))
    return {k: v for k, v in found.items() if k not in ("data_format", "processor_class", "default_to_square")}


@pytest.mark.parametrize("case", FILES)
def test_files_of_every_generation(case, tmp_path):
    folder = write_files(tmp_path / "model", *FILES[case])
    ours = jf.AutoImageProcessor.from_pretrained(folder)
    theirs = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert type(ours).__name__ == type(theirs).__name__.removesuffix("Pil")
    assert written(ours) == written(theirs)
    small = {"size": {"shortest_edge": 50, "longest_edge": 70}} if case == "detr, 2021" else {}
    images = [noise(60, 90), noise(90, 60)]
    equal(ours(images, **small), theirs(images, **small))

    ours.save_pretrained(tmp_path / "saved")
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path / "saved", backend="pil")
    assert written(again) == written(theirs)
    equal(again(images, **small), theirs(images, **small))
    theirs.save_pretrained(tmp_path / "theirs")
    assert written(jf.AutoImageProcessor.from_pretrained(tmp_path / "theirs")) == written(theirs)


def test_overrides_and_single_files(tmp_path):
    folder = write_files(tmp_path / "model", *FILES["vit, 2023"])
    for source in (folder, folder / "preprocessor_config.json", str(folder)):
        processor = jf.AutoImageProcessor.from_pretrained(source, size=32, do_normalize=False, backend="pil")
        assert processor.size == {"height": 32, "width": 32}
        assert processor(noise(9, 9), return_tensors="np").pixel_values.shape == (1, 3, 32, 32)
    with pytest.raises(TypeError, match="no option 'sise'"):
        jf.AutoImageProcessor.from_pretrained(folder, sise=32)
    with pytest.raises(ConfigError, match="processed with Pillow"):
        jf.AutoImageProcessor.from_pretrained(folder, use_fast=True)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
        (tmp_path / "empty").mkdir()
        jf.AutoImageProcessor.from_pretrained(tmp_path / "empty")
    other = write_files(tmp_path / "other", "beit", {"image_processor_type": "BeitImageProcessor"})
    with pytest.raises(ConfigError, match="'BeitImageProcessor'.*ViTImageProcessor"):
        jf.AutoImageProcessor.from_pretrained(other)
    nameless = write_files(tmp_path / "nameless", "beit", {"size": 3})
    with pytest.raises(ConfigError, match="model type 'beit'"):
        jf.AutoImageProcessor.from_pretrained(nameless)
    with pytest.raises(ConfigError, match="takes videos"):
        jf.AutoVideoProcessor.from_pretrained(other)
    asking = write_files(tmp_path / "asking", "llava", {"processor_class": "PixtralProcessor"})
    with pytest.raises(ConfigError, match="asks for PixtralProcessor"):
        jf.AutoProcessor.from_pretrained(asking)
    with pytest.raises(CheckpointError, match="neither a tokenizer"):
        jf.AutoProcessor.from_pretrained(tmp_path / "empty")


def test_no_type_of_ours_takes_videos():
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

    from jaxformers.models import MODEL_TYPES

    assert not set(MODEL_TYPES) & set(VIDEO_PROCESSOR_MAPPING_NAMES)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("clip"), ZOO["clip"])
    return write_files(folder, "clip", {**FILES["clip, 2021"][1], "size": 32, "crop_size": 32})


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("siglip"), ZOO["bert"])
    return write_files(folder, "siglip", {**FILES["siglip"][1], "size": {"height": 24, "width": 20}})


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("llava"), ZOO["byte-level"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor", **options}))
    raw = {**FILES["llava 1.5"][1], "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 40}}
    return write_files(folder, "llava", raw)


@pytest.mark.parametrize("kind", ["clip", "siglip", "llava"])
def test_saved_folders_are_read_by_both(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    ours, theirs = jf.AutoProcessor.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder)
    assert type(ours).__name__ == type(theirs).__name__
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "ours")
    mine = jf.AutoProcessor.from_pretrained(tmp_path / "theirs")
    assert type(again) is type(theirs) and type(mine) is type(ours)
    text = ["<image> a red house <image>", "a cat"] if kind == "llava" else ["a red house", "a cat"]
    images = [noise(40, 60), noise(60, 40)]
    want = theirs(images=images, text=text, padding=True, return_tensors="np")
    for processor in (ours, again, mine):
        equal(processor(images=images, text=text, padding=True, return_tensors="np"), want)
    assert ours.chat_template == mine.chat_template == again.chat_template
    assert set(ours.model_input_names) == set(theirs.model_input_names)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pictures_and_texts(kind, request):
    folder = request.getfixturevalue(kind)
    ours, theirs = jf.AutoProcessor.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder)
    image = noise(40, 60)
    for asked in (
        {"images": image},
        {"text": "a house"},
        {"images": image, "text": "a house"},
        {"images": [image, image], "text": ["a", "b c d e f"], "padding": "max_length", "max_length": 9},
        {"images": image, "text": ["a b c d"], "size": 20, "crop_size": 16, "truncation": True, "max_length": 3},
        {"images": image, "text": "a", "images_kwargs": {"do_normalize": False}, "text_kwargs": {"padding": True}},
        {"images": image, "text": ["a"], "common_kwargs": {"return_tensors": "np"}},
    ):
        equal(ours(**asked), theirs(**asked))
    assert ours.batch_decode(ours(text=["a house"])["input_ids"]) == theirs.batch_decode(
        theirs(text=["a house"])["input_ids"]
    )
    with pytest.raises(InputError, match="needs images, text, or both"):
        ours()
    with pytest.raises(TypeError, match="sise"):
        ours(images=image, sise=3)
    with pytest.raises(TypeError, match="given twice"):
        ours(images=image, text="a", size=3, images_kwargs={"size": 4})


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("extra", [0, 1])
def test_llava_makes_room_for_pictures(llava, strategy, extra):
    asked = {"vision_feature_select_strategy": strategy, "num_additional_image_tokens": extra, "patch_size": 8}
    ours = jf.AutoProcessor.from_pretrained(llava, **asked)
    theirs = transformers.AutoProcessor.from_pretrained(llava, **asked)
    images = [noise(40, 60), noise(60, 40), noise(33, 33)]
    text = ["<image>\nwhat is it? <image>", "nothing", "<image>"]
    got = ours(images=images, text=text, padding=True, return_tensors="np")
    equal(got, theirs(images=images, text=text, padding=True, return_tensors="np"))
    assert (got["input_ids"] == ours.image_token_id).sum() == 3 * (20 + extra - (strategy == "default"))
    equal(ours(images=images[0], text="<image>x"), theirs(images=images[0], text="<image>x"))
    equal(ours(text="no picture"), theirs(text="no picture"))


def test_llava_refuses_what_does_not_add_up(llava):
    ours = jf.AutoProcessor.from_pretrained(llava)
    with pytest.raises(InputError, match="1 <image> for 2 images"):
        ours(images=[noise(9, 9)] * 2, text="<image>")
    with pytest.raises(InputError, match="1 <image> for 0 images"):
        ours(text="<image>")
    with pytest.raises(InputError, match="left after truncation"):
        ours(images=noise(9, 9), text="<image>", truncation=True, max_length=4)
    ours.patch_size = None
    with pytest.raises(ConfigError, match="needs patch_size"):
        ours(images=noise(9, 9), text="<image>")


def test_llava_conversations(llava, tmp_path):
    ours, theirs = jf.AutoProcessor.from_pretrained(llava), transformers.AutoProcessor.from_pretrained(llava)
    noise(40, 60).save(path := str(tmp_path / "picture.png"))
    talk = [
        {"role": "user", "content": [{"type": "image", "path": path}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "Noise."},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": path}}, {"type": "text", "text": "And?"}],
        },
    ]
    for asked in ({}, {"add_generation_prompt": True}):
        assert ours.apply_chat_template(talk, **asked) == theirs.apply_chat_template(talk, **asked)
        assert ours.apply_chat_template([talk, talk[:2]], **asked) == theirs.apply_chat_template(
            [talk, talk[:2]], **asked
        )
        asked = {**asked, "tokenize": True, "return_dict": True, "return_tensors": "np"}
        equal(ours.apply_chat_template(talk, **asked), theirs.apply_chat_template(talk, **asked))
    batch = {"tokenize": True, "return_dict": True, "processor_kwargs": {"padding": True}}
    equal(ours.apply_chat_template([talk, talk[:2]], **batch), theirs.apply_chat_template([talk, talk[:2]], **batch))
    assert len(ours.apply_chat_template(talk, tokenize=True)[0]) > 40
    with pytest.raises(ValueError, match="no chat template"):
        ours.chat_template = None
        ours.apply_chat_template(talk)


def test_a_checkpoint_of_one_kind_of_input_gives_its_part(tmp_path):
    vit = write_files(tmp_path / "vit", *FILES["vit, 2023"])
    assert type(jf.AutoProcessor.from_pretrained(vit)).__name__ == "ViTImageProcessor"
    bert = write(tmp_path / "bert", ZOO["bert"])
    assert isinstance(jf.AutoProcessor.from_pretrained(bert), type(jf.AutoTokenizer.from_pretrained(bert)))


@pytest.mark.parametrize("name", ["AutoImageProcessor", "AutoProcessor", "AutoVideoProcessor"])
def test_the_classes_are_not_objects(name):
    with pytest.raises(TypeError, match="from_pretrained"):
        getattr(jf, name)()
