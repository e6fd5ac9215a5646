"""Losses of models for images and sounds equal transformers' own."""

from pathlib import Path

import numpy as np
import pytest

from jaxformers.training.losses import pad_objects
from tests.parity.rows import clip, siglip
from tests.parity.rows.detr import RESNET
from tests.training.losses.sides import Case, compare

ONE = {"num_hidden_layers": 1}
SHORT = {"encoder_layers": 1, "decoder_layers": 1}
SMALL = {**SHORT, "backbone_config": {**RESNET, "depths": [1, 1, 1, 1]}}


def classes(c, inputs, rng):
    """A class for each row."""
    return {"labels": np.array([3, 1])}


def caption(c, inputs, rng):
    """The texts around images."""
    return {"labels": np.where(inputs["input_ids"] < 40, -100, inputs["input_ids"])}


def dictation(c, inputs, rng):
    """What was said, of unequal length."""
    labels = rng.randint(3, 90, (2, 7))
    labels[1, -3:] = -100
    return {"labels": labels}


def letters(c, inputs, rng):
    """What was said, with a letter twice in a row, and blanks and padding anywhere."""
    return {"labels": np.array([[5, 5, 7, 0, 9, -100, 8], [4, 6, 6, -100, -100, -100, -100]])}


def too_many_letters(c, inputs, rng):
    """More letters than there are frames, in the second row."""
    return {"labels": np.array([[5] * 3 + [-100] * 9, [4] * 12])}


def frames(c, inputs, rng):
    """The class of each frame as a one-hot vector."""
    return {"labels": np.eye(c.num_labels, dtype=np.float32)[rng.randint(0, c.num_labels, (2, FRAMES))]}


def nothing(c, inputs, rng):
    """Inputs that are their own labels."""
    return {}


FRAMES = 19
SIZES = {0: 3, 1: 1}


def objects(c, inputs, rng):
    """Three objects and one, with masks of the images' size."""
    height, width = inputs["pixel_values"].shape[2:]
    out = []
    for count in SIZES.values():
        boxes = np.concatenate([rng.uniform(0.3, 0.7, (count, 2)), rng.uniform(0.1, 0.5, (count, 2))], axis=1)
        masks = (rng.rand(count, height, width) < 0.4).astype(np.float32)
        labels = rng.randint(0, c.num_labels, count)
        out.append({"class_labels": labels, "boxes": boxes.astype(np.float32), "masks": masks})
    return {"labels": out}


def padded(labels):
    """Places for one object more than there are."""
    return pad_objects(labels["labels"], 4)


def shallow(rows):
    """Two towers of one layer each."""
    return {f"{name}_config": {**rows.BOTH[f"{name}_config"], **ONE} for name in ("text", "vision")}


def asking(labels):
    """What CLIP wants in the place of labels."""
    return {"return_loss": True}


CTC = ("wav2vec2", "Wav2Vec2ForCTC", "default")
CASES = [
    Case(("vit", "ViTForImageClassification", "default"), classes, ONE, gradient=True),
    Case(("vit", "ViTForMaskedImageModeling", "default"), nothing, ONE),
    Case(("swin", "SwinForMaskedImageModeling", "other"), nothing),
    Case(("clip", "CLIPModel", "default"), nothing, shallow(clip), theirs=asking, gradient=True),
    Case(("siglip", "SiglipModel", "default"), nothing, shallow(siglip), theirs=asking, gradient=True),
    Case(("llava", "LlavaForConditionalGeneration", "default"), caption, options={"chunk": 8}),
    Case(("detr", "DetrForObjectDetection", "other"), objects, {"num_labels": 7}, ours=padded),
    Case(("detr", "DetrForSegmentation", "default"), objects, SMALL, ours=padded),
    Case(("whisper", "WhisperForConditionalGeneration", "default"), dictation, SHORT, gradient=True),
    Case(("whisper", "WhisperForAudioClassification", "default"), classes, SHORT),
    Case(CTC, letters, ONE, gradient=True),
    Case(CTC, letters, {**ONE, "ctc_loss_reduction": "mean"}, note="mean"),
    Case(CTC, too_many_letters, ONE, note="infinite"),
    Case(CTC, too_many_letters, {**ONE, "ctc_zero_infinity": True}, gradient=True, note="no infinity"),
    Case(("wav2vec2", "Wav2Vec2ForSequenceClassification", "default"), classes, ONE),
    Case(("wav2vec2", "Wav2Vec2ForAudioFrameClassification", "default"), frames, ONE),
    Case(("wav2vec2", "Wav2Vec2ForXVector", "default"), classes, ONE),
    Case(("wav2vec2", "Wav2Vec2ForPreTraining", "default"), nothing, ONE, summed=True),
]


DETR = Case(("detr", "DetrForSegmentation", "default"), objects, SMALL, ours=padded, gradient=True, note="gradients")


@pytest.mark.parametrize("case", [*CASES, pytest.param(DETR, marks=pytest.mark.slow)], ids=str)
def test_equals_transformers(case: Case, tmp_path: Path) -> None:
    """Values to 1e-5, and gradients of the main ones."""
    compare(case, tmp_path)
