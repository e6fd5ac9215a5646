"""DETR's labels from COCO annotations, and what it found, equal transformers' for every option."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DetrImageProcessorPil

from jaxformers.core.errors import ConfigError, InputError
from jaxformers.processing.images.annotations import mask_boxes
from jaxformers.processing.images.detr import DetrImageProcessor
from jaxformers.processing.images.polygons import segments_to_masks

SIZE = {"shortest_edge": 40, "longest_edge": 60}
SHAPES = [(50, 70), (90, 30)]


def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in SHAPES]


def detection(keypoints=False):
    """Boxes inside, across the edges, without area, and of a crowd; a picture without any."""
    boxes = [[1, 2, 10, 20], [60, 40, 30, 30], [5, 5, 0, 4], [3, 3, 8, 8], [-5, -5, 20, 20]]
    objects = [
        {"category_id": i + 3, "area": 10.5 * i + 1, "bbox": box, "iscrowd": int(i == 3)} for i, box in enumerate(boxes)
    ]
    if keypoints:
        objects = [{**x, "keypoints": list(range(i, i + 6))} for i, x in enumerate(objects)]
    return [{"image_id": 7, "annotations": objects}, {"image_id": 8, "annotations": []}]


def equal(ours, theirs):
    assert set(ours) == set(theirs)
    for name in theirs:
        if name == "labels":
            for a, b in zip(ours[name], theirs[name], strict=True):
                equal(a, b)
            continue
        assert len(ours[name]) == len(theirs[name])
        for a, b in zip(ours[name], theirs[name], strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("tensors", [None, "np"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_resize": False},
        {"do_convert_annotations": False},
        {"do_pad": False},
        {"pad_size": {"height": 100, "width": 90}},
        {"size": {"height": 20, "width": 30}},
        {"size": {"max_height": 33, "max_width": 44}},
        {"do_normalize": False},
    ],
)
def test_detection_labels(options, tensors):
    asked = {"annotations": detection(), **options}
    if options.get("do_pad") is not False or options.get("size"):
        asked["return_tensors"] = tensors
    equal(DetrImageProcessor(size=SIZE)(pictures(), **asked), DetrImageProcessorPil(size=SIZE)(pictures(), **asked))


def test_keypoints_and_one_picture():
    asked = {"annotations": detection(True)[0], "return_tensors": "np"}
    ours, theirs = DetrImageProcessor(size=SIZE), DetrImageProcessorPil(size=SIZE)
    equal(ours(pictures()[0], **asked), theirs(pictures()[0], **asked))
    jax = ours(pictures()[0], annotations=detection()[1], return_tensors="jax")
    assert jax.labels[0].boxes.shape == (0, 4) and jax.labels[0].boxes.dtype == np.float32


@pytest.mark.parametrize("options", [{}, {"do_resize": False}, {"return_segmentation_masks": False}, {"do_pad": False}])
def test_panoptic_labels(options, tmp_path):
    random, annotations = np.random.default_rng(1), []
    for index, (height, width) in enumerate(SHAPES):
        numbers = random.choice([0, 5, 300, 70000], (height // 10 + 1, width // 10 + 1))
        numbers = np.kron(numbers, np.ones((10, 10), int))[:height, :width]
        colors = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)
        Image.fromarray(colors).save(tmp_path / f"{index}.png")
        info = [
            {"id": n, "category_id": n % 9, "iscrowd": 0, "area": int((numbers == n).sum())} for n in (5, 300, 70000)
        ]
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": info})
    asked = {"annotations": annotations, "masks_path": tmp_path, "format": "coco_panoptic", **options}
    equal(DetrImageProcessor(size=SIZE)(pictures(), **asked), DetrImageProcessorPil(size=SIZE)(pictures(), **asked))


def test_an_empty_mask_has_transformers_box():
    from transformers.models.detr.image_processing_pil_detr import masks_to_boxes

    masks = np.zeros((2, 5, 6), np.uint8)
    masks[1, 2:4, 1:5] = 1
    np.testing.assert_array_equal(mask_boxes(masks), masks_to_boxes(masks))


def test_outlines_as_masks():
    """Worked by hand: an outline around whole pixels holds them, and overlapping parts are one."""
    square = [2, 1, 6, 1, 6, 4, 2, 4]
    wanted = np.zeros((8, 9), bool)
    wanted[1:4, 2:6] = True
    runs = {"counts": [17, 3, 5, 3, 5, 3, 5, 3, 28], "size": [8, 9]}
    found = segments_to_masks([[square], [square, [0, 0, 2, 0, 2, 2, 0, 2]], runs], 8, 9)
    np.testing.assert_array_equal(found[0], wanted)
    np.testing.assert_array_equal(found[2], wanted)
    wanted[:2, :2] = True
    np.testing.assert_array_equal(found[1], wanted)
    assert segments_to_masks([], 8, 9).shape == (0, 8, 9)
    with pytest.raises(InputError, match="at least three points"):
        segments_to_masks([[[1, 2, 3, 4]]], 8, 9)
    with pytest.raises(InputError, match="decode compressed"):
        segments_to_masks([{"counts": "abc"}], 8, 9)


# Made with pycocotools 2.0: height, width, polygon, run lengths down the columns.
OUTLINES = [
    (9, 11, [1.5, 0.5, 9.2, 3.1, 4.4, 8.6], [19, 2, 7, 5, 5, 6, 3, 5, 4, 4, 6, 2, 7, 1, 23]),
    (8, 12, [-3.0, 2.0, 14.5, -1.0, 7.0, 10.0, 2.2, 6.6], [1, 4, 4, 5, 3, 6, 2, 6, 2, 7, 1, 37, 2, 5, 3, 4, 4]),
    (
        *(10, 10, [5, 0.3, 6.1, 3.5, 9.7, 3.9, 6.6, 6.2, 7.9, 9.8, 5, 7.5, 2.1, 9.6, 3.3, 6.1, 0.4, 3.8, 3.9, 3.4]),
        [14, 1, 9, 1, 8, 6, 3, 6, 4, 6, 6, 5, 5, 2, 2, 1, 5, 1, 15],
    ),
]


@pytest.mark.parametrize(("height", "width", "polygon", "counts"), OUTLINES)
def test_outlines_hold_the_pixels_that_coco_says(height, width, polygon, counts):
    found = segments_to_masks([[polygon], {"counts": counts}], height, width)
    np.testing.assert_array_equal(found[0], found[1])


def test_masks_of_detection_annotations():
    image = Image.fromarray(np.zeros((8, 9, 3), np.uint8))
    item = {"category_id": 1, "area": 12, "bbox": [2, 1, 4, 3], "segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
    asked = {"annotations": {"image_id": 1, "annotations": [item]}, "return_segmentation_masks": True}
    (label,) = DetrImageProcessor(size={"height": 16, "width": 18})(image, **asked).labels
    wanted = np.zeros((1, 16, 18), bool)
    wanted[0, 2:8, 4:12] = True
    np.testing.assert_array_equal(label["masks"], wanted)


@pytest.mark.parametrize(
    ("annotations", "options", "complaint"),
    [
        ({"image_id": 1}, {}, "is no coco_detection annotation"),
        ([{"image_id": 1, "annotations": []}], {}, "1 annotations for 2 images"),
        ([{"image_id": 1, "annotations": []}] * 2, {"format": "voc"}, "format is 'voc'"),
        ([{"image_id": 1, "file_name": "x", "segments_info": []}] * 2, {"format": "coco_panoptic"}, "masks_path"),
    ],
)
def test_bad_annotations(annotations, options, complaint):
    images = pictures()[:1] if isinstance(annotations, dict) else pictures()
    with pytest.raises((InputError, ConfigError), match=complaint):
        DetrImageProcessor(size=SIZE)(images, annotations=annotations, **options)


def outputs(seed, queries=12, classes=6, height=11, width=13, sure=4.0):
    """Scores, boxes and smooth masks at random, for both libraries."""
    random = np.random.default_rng(seed)
    logits = (sure * random.standard_normal((2, queries, classes + 1))).astype(np.float32)
    boxes = random.random((2, queries, 4)).astype(np.float32)
    coarse = random.standard_normal((2, queries, 3, 3))
    masks = np.stack([np.kron(x, np.ones((4, 5)))[..., :height, :width] for x in coarse]) * 4
    masks = (masks + 0.3 * random.standard_normal(masks.shape)).astype(np.float32)
    ours = SimpleNamespace(logits=logits, pred_boxes=boxes, pred_masks=masks)
    return ours, SimpleNamespace(**{k: torch.from_numpy(v.copy()) for k, v in vars(ours).items()})


SIZES = [None, [(40, 50), (33, 21)]]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.1])
@pytest.mark.parametrize("sizes", SIZES)
def test_boxes(threshold, sizes):
    ours, theirs = outputs(3)
    found = DetrImageProcessor().post_process_object_detection(ours, threshold, sizes)
    wanted = DetrImageProcessorPil().post_process_object_detection(theirs, threshold, sizes)
    for a, b in zip(found, wanted, strict=True):
        assert a["labels"].tolist() == b["labels"].tolist()
        np.testing.assert_allclose(a["scores"], b["scores"], atol=1e-6)
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=1e-5)
    again = DetrImageProcessor().post_process_object_detection(
        ours, threshold, None if sizes is None else np.array(sizes)
    )
    np.testing.assert_array_equal(again[0]["boxes"], found[0]["boxes"])


@pytest.mark.parametrize("sizes", SIZES)
def test_maps_of_classes(sizes):
    for seed in range(5):
        ours, theirs = outputs(seed)
        found = DetrImageProcessor().post_process_semantic_segmentation(ours, sizes, True)
        wanted = DetrImageProcessorPil().post_process_semantic_segmentation(theirs, sizes, True)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a.segmentation_scores, b.segmentation_scores, atol=2e-5)
            np.testing.assert_array_equal(a.segmentation, b.segmentation)
        maps = DetrImageProcessor().post_process_semantic_segmentation(ours, sizes)
        np.testing.assert_array_equal(maps[1], found[1].segmentation)


def same_segments(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        scores = [[x.pop("score") for x in each["segments_info"]] for each in (a, b)]
        np.testing.assert_allclose(*scores, atol=2e-6)
        assert a["segments_info"] == b["segments_info"]
        if isinstance(b["segmentation"], list):
            assert a["segmentation"] == b["segmentation"]
        else:
            assert a["segmentation"].dtype == b["segmentation"].numpy().dtype
            np.testing.assert_array_equal(a["segmentation"], b["segmentation"])
    return sum(len(each["segments_info"]) for each in found)


@pytest.mark.parametrize("fuse", [None, {0, 1, 2}, {0, 1, 2, 3, 4, 5}])
@pytest.mark.parametrize("sizes", SIZES)
def test_segments(fuse, sizes):
    segments = 0
    for seed in range(4):
        for limits in ((0.5, 0.5, 0.8), (0.2, 0.3, 0.1), (0.99, 0.5, 0.0), (2.0, 0.5, 0.8)):
            ours, theirs = outputs(seed)
            found = DetrImageProcessor().post_process_panoptic_segmentation(ours, *limits, fuse, sizes)
            wanted = DetrImageProcessorPil().post_process_panoptic_segmentation(theirs, *limits, fuse, sizes)
            segments += same_segments(found, wanted)
            for coco in (False, True) if fuse is None else ():
                ours, theirs = outputs(seed)
                found = DetrImageProcessor().post_process_instance_segmentation(ours, *limits, sizes, coco)
                wanted = DetrImageProcessorPil().post_process_instance_segmentation(theirs, *limits, sizes, coco)
                same_segments(found, wanted)
    assert segments > 20


def test_sizes_for_other_batches_are_refused():
    ours, _ = outputs(0)
    for name in ("object_detection", "semantic_segmentation", "panoptic_segmentation"):
        with pytest.raises(InputError, match="1 sizes for 2 images"):
            getattr(DetrImageProcessor(), f"post_process_{name}")(ours, target_sizes=[(3, 4)])
