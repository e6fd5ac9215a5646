"""Pipelines of pictures against transformers' on the same tiny checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

import jaxformers as jf
from jaxformers import cli
from jaxformers.pipelines.pipeline import PipelineInputError
from tests.parity.rows.detr import SIZES as DETR
from tests.pipelines.test_text_pipelines import close
from tests.pipelines.tiny_pipes import SMALL, byte_pairs

CLIP_VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32)
CLIP_TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
LLAMA = dict(model_type="llama", num_key_value_heads=2, max_position_embeddings=256, **SMALL)
VISION = dict(model_type="clip_vision_model", patch_size=8, **{**CLIP_VISION, "image_size": 16})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of different sizes and modes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.RandomState(0)
    names = []
    for i, shape in enumerate([(40, 60, 3), (64, 48, 3), (33, 33)]):
        Image.fromarray(rng.randint(0, 255, shape, dtype=np.uint8)).save(folder / f"{i}.png")
        names.append(str(folder / f"{i}.png"))
    return names


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint for each head."""
    home = tmp_path_factory.mktemp("picture-pipelines")
    square = dict(size={"height": 32, "width": 32})
    vit = dict(image_size=32, patch_size=8, **SMALL)
    made = {}

    def model(name: str, cls: str, processor: Any, **config: Any) -> Path:
        kind = getattr(transformers, cls)
        transformers.set_seed(0)
        torch_model = kind(kind.config_class(**config)).eval()
        for parameter in torch_model.parameters():
            parameter.data.normal_(std=0.2)
        torch_model.save_pretrained(home / name)
        processor.save_pretrained(home / name)
        made[name] = home / name
        return home / name

    images = transformers.ViTImageProcessorPil(**square)
    model("classify", "ViTForImageClassification", images, num_labels=7, **vit)
    model("base", "ViTModel", images, **vit)
    sized = transformers.DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    model("detect", "DetrForObjectDetection", sized, num_labels=4, **DETR)
    special = dict(pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    tokenizer = byte_pairs(**special)
    clip = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=40, eos_token_id=1, **CLIP_TEXT)
    vision = dict(patch_size=8, **CLIP_VISION)
    model("clip", "CLIPModel", clip, text_config=text, vision_config=vision, projection_dim=16)
    tokenizer.save_pretrained(home / "clip")
    words = byte_pairs(**special, image_token="<image>")
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    eye = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    template = (
        "{% for m in messages %}{{ m.role }}: {% for c in m.content %}"
        "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %} {% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    processor = transformers.LlavaProcessor(
        image_processor=eye,
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=template,
    )
    llama = dict(LLAMA, vocab_size=len(words), pad_token_id=0, eos_token_id=1, bos_token_id=2)
    image = words.convert_tokens_to_ids("<image>")
    model(
        "llava", "LlavaForConditionalGeneration", processor, text_config=llama, vision_config=VISION,
        image_token_index=image, image_token_id=image,
    )  # fmt: skip
    return made


def both(folders: dict[str, Path], name: str, task: str, **options: Any) -> tuple[Any, Any]:
    """Our pipeline and theirs, which must not need torchvision."""
    theirs = transformers.pipeline(task, model=str(folders[name]), device="cpu", use_fast=False, **options)
    return jf.pipeline(task, folders[name], **options), theirs


def test_image_classification(folders: dict[str, Path], pictures: list[str]) -> None:
    ours, theirs = both(folders, "classify", "image-classification")
    close(ours(pictures), theirs(pictures))
    close(ours(pictures[0]), theirs(pictures[0]))
    close(ours(pictures[0], top_k=2), theirs(pictures[0], top_k=2))
    sigmoid = dict(function_to_apply="sigmoid")
    close(ours(pictures[1], **sigmoid), theirs(pictures[1], **sigmoid))
    with Image.open(pictures[0]) as image:
        close(ours(image), theirs(pictures[0]))
        close(ours(np.asarray(image)), theirs(pictures[0]))
    with pytest.raises(PipelineInputError, match="input 1"):
        ours([pictures[0], __file__, pictures[1]])
    results = ours([pictures[0], __file__, pictures[1]], errors="return")
    close(results[2], theirs(pictures[1]))


def test_image_features(folders: dict[str, Path], pictures: list[str]) -> None:
    ours, theirs = both(folders, "base", "image-feature-extraction")
    for a, b in zip(ours(pictures[:2]), theirs(pictures[:2]), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)
    np.testing.assert_allclose(ours(pictures[0], pool=True), theirs(pictures[0], pool=True), atol=5e-5)


def test_object_detection(folders: dict[str, Path], pictures: list[str]) -> None:
    ours, theirs = both(folders, "detect", "object-detection", threshold=0.1)
    want = theirs(pictures[:2])
    assert any(want), "nothing was found, so nothing was compared"
    close(ours(pictures[:2]), want)
    close(ours(pictures[0], threshold=0.3), theirs(pictures[0], threshold=0.3))


def test_zero_shot_images(folders: dict[str, Path], pictures: list[str]) -> None:
    ours, theirs = both(folders, "clip", "zero-shot-image-classification")
    labels = ["a cat", "the red house", "river"]
    close(ours(pictures[0], candidate_labels=labels), theirs(pictures[0], candidate_labels=labels))
    close(ours(pictures, labels), theirs(pictures, candidate_labels=labels))
    options = dict(candidate_labels=labels, hypothesis_template="{}")
    close(ours(pictures[1], **options), theirs(pictures[1], **options))


def test_image_text_to_text(folders: dict[str, Path], pictures: list[str]) -> None:
    ours, theirs = both(folders, "llava", "image-text-to-text")
    greedy = dict(generate_kwargs=dict(do_sample=False, max_new_tokens=6))
    with Image.open(pictures[0]) as image:
        close(ours(image, "<image> the cat", **greedy), theirs(images=image, text="<image> the cat", **greedy))
    chat = [
        {
            "role": "user",
            "content": [{"type": "image", "url": pictures[1]}, {"type": "text", "text": "How do I read?"}],
        }
    ]
    (mine,), (wanted,) = ours(chat, **greedy), theirs(text=chat, **greedy)
    assert mine["generated_text"][-1]["content"] == wanted["generated_text"][-1]["content"]
    two = ours(pictures[:2], ["<image> a", "<image> the dog"], return_full_text=False, **greedy)
    assert [set(r[0]) for r in two] == [{"input_text", "generated_text"}] * 2


def test_image_to_text(folders: dict[str, Path], pictures: list[str]) -> None:
    ours = jf.pipeline("image-to-text", folders["llava"])
    (one,) = ours(pictures[0], prompt="<image> the cat", do_sample=False, max_new_tokens=6)
    other = jf.pipeline("image-text-to-text", folders["llava"])
    (same,) = other(pictures[0], "<image> the cat", do_sample=False, max_new_tokens=6, return_full_text=False)
    assert one == {"generated_text": same["generated_text"]}


def test_a_model_without_the_head_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="needs a head for ObjectDetection"):
        jf.pipeline("object-detection", folders["classify"])


def test_the_caption_command(folders: dict[str, Path], pictures: list[str], capsys: pytest.CaptureFixture) -> None:
    ours = jf.pipeline("image-to-text", folders["llava"])
    (want,) = ours(pictures[0], prompt="the cat", do_sample=False, max_new_tokens=6)
    arguments = ["caption", "--model", str(folders["llava"]), "--prompt", "the cat", "--max-new-tokens", "6"]
    assert cli.main([*arguments, "--json", pictures[0]]) == 0
    assert json.loads(capsys.readouterr().out) == {"picture": pictures[0], "caption": want["generated_text"]}
