"""preprocessor_config.json as checkpoints on the Hub have it: every generation of names, each with its model type."""

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
KEYS = ["images", "do_resize", "size", "resample", "do_rescale", "rescale_factor", "return_tensors"]

FILES: dict[str, tuple[str, dict]] = {
    "vit, 2021": ("vit", {"do_normalize": True, "do_resize": True, **HALVES, "size": 224}),
    "vit, 2022": (
        "vit",
        {
            **{"do_normalize": True, "do_resize": True, **HALVES, "size": 224, "resample": 2},
            "feature_extractor_type": "ViTFeatureExtractor",
        },
    ),
    "vit, 2023": (
        "vit",
        {
            **{"do_normalize": True, "do_rescale": True, "do_resize": True, **HALVES, "resample": 2},
            **{"image_processor_type": "ViTImageProcessor", "rescale_factor": 0.00392156862745098},
            "size": {"height": 384, "width": 384},
        },
    ),
    "vit, fast": (
        "vit",
        {
            **{"image_processor_type": "ViTImageProcessorFast", "size": {"height": 32, "width": 48}, "crop_size": None},
            **{"data_format": "channels_first", "device": None, "do_convert_rgb": None, "input_data_format": None},
            **{"disable_grouping": None, "default_to_square": True, "do_center_crop": None, "return_tensors": None},
        },
    ),
    "dinov2": (
        "dinov2",
        {
            **{"crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True, **IMAGENET},
            **{"do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3},
            **{"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}},
        },
    ),
    "swin": (
        "swin",
        {"do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor"}
        | {**IMAGENET, "resample": 3, "size": 224},
    ),
    "resnet": (
        "resnet",
        {"crop_pct": 0.875, "do_normalize": True, "do_resize": True, **IMAGENET, "resample": 3, "size": 224}
        | {"feature_extractor_type": "ConvNextFeatureExtractor"},
    ),
    "convnext, 384": (
        "convnext",
        {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": 384},
            "crop_pct": None,
            **IMAGENET,
        },
    ),
    "detr, 2021": (
        "detr",
        {"do_normalize": True, "do_resize": True, "feature_extractor_type": "DetrFeatureExtractor"}
        | {"format": "coco_detection", **IMAGENET, "max_size": 1333, "size": 800},
    ),
    "detr, padding by its old name": (
        "detr",
        {"image_processor_type": "DetrImageProcessor", "pad_and_return_pixel_mask": False, "format": "coco_panoptic"}
        | {"size": {"shortest_edge": 60, "longest_edge": 80}, "do_normalize": False},
    ),
    "clip, 2021": (
        "clip",
        {"crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, **CLIP}
        | {"feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 224},
    ),
    "clip, no name": ("clip", {"crop_size": 32, "size": 40, **CLIP}),
    "clip vision": (
        "clip_vision_model",
        {
            "crop_size": 32,
            "size": {"height": 40, "width": 50},
            **CLIP,
            "feature_extractor_type": "CLIPFeatureExtractor",
        },
    ),
    "siglip": (
        "siglip",
        {"do_resize": True, "do_rescale": True, "do_normalize": True, **HALVES, "resample": 3}
        | {"image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor"}
        | {"rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224}},
    ),
    "llava 1.5": (
        "llava",
        {"_valid_processor_keys": KEYS, "crop_size": {"height": 336, "width": 336}, "do_center_crop": True}
        | {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, **CLIP}
        | {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor", "resample": 3}
        | {"rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 336}},
    ),
    "llava, its own": (
        "llava",
        {"image_processor_type": "LlavaImageProcessorFast", "do_pad": True, "crop_size": 64, "size": 64},
    ),
}
