"""wav2vec 2.0."""

import numpy as np

from tests.parity.row import BATCH, Inputs, Row

SAMPLES = 400
SIZES = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, conv_dim=(16, 16, 24),
    conv_stride=(5, 2, 2), conv_kernel=(10, 3, 2), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    num_codevectors_per_group=10, codevector_dim=16, proj_codevector_dim=12, tdnn_dim=(16, 12, 12, 16, 20),
    xvector_output_dim=14, classifier_proj_size=20,
)  # fmt: skip
OTHER = dict(
    do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True, feat_extract_activation="relu",
    hidden_act="gelu_new", num_conv_pos_embeddings=5, num_conv_pos_embedding_groups=2, layer_norm_eps=1e-3,
    conv_dim=(12, 20), conv_stride=(4, 3), conv_kernel=(8, 5), hidden_size=36, num_attention_heads=3,
    num_hidden_layers=2, num_codevector_groups=4, codevector_dim=20, use_weighted_layer_sum=True, hidden_dropout=0.2,
    tdnn_dim=(10, 14), tdnn_kernel=(4, 2), tdnn_dilation=(2, 3), vocab_size=50, layerdrop=0.0, adapter_attn_dim=10,
    contrastive_logits_temperature=0.5, diversity_loss_weight=0.3, mask_feature_prob=0.1,
)  # fmt: skip
ADAPTER = dict(add_adapter=True, num_adapter_layers=2)
NARROW = dict(
    add_adapter=True, output_hidden_size=20, adapter_kernel_size=5, adapter_stride=3, num_adapter_layers=1,
    mask_time_prob=0.0,
)  # fmt: skip
UNMASKED = dict(apply_spec_augment=False)


def sound(c, rng: np.random.RandomState) -> Inputs:
    """Noise."""
    return {"input_values": rng.randn(BATCH, SAMPLES).astype(np.float32)}


def padded_sound(c, rng: np.random.RandomState) -> Inputs:
    """Noise with a mask of samples, the second's end being padding."""
    mask = np.ones((BATCH, SAMPLES), np.int64)
    mask[1, -150:] = 0
    return {**sound(c, rng), "attention_mask": mask}


def frames(c) -> int:
    """How many frames the samples make."""
    count = SAMPLES
    for kernel, stride in zip(c.conv_kernel, c.conv_stride, strict=True):
        count = (count - kernel) // stride + 1
    return count


def hidden_sound(c, rng: np.random.RandomState) -> Inputs:
    """Padded noise with some frames hidden."""
    return {**padded_sound(c, rng), "mask_time_indices": rng.rand(BATCH, frames(c)) < 0.4}


def contrasted_sound(c, rng: np.random.RandomState) -> Inputs:
    """Hidden frames, and other frames to tell them from."""
    count = frames(c)
    return {**hidden_sound(c, rng), "sampled_negative_indices": rng.randint(0, BATCH * count, (BATCH, count, 6))}


def row(head: str, task: str | None, options: dict, inputs, name: str = "default", **kwargs) -> Row:
    """A row of one head with options beside the sizes."""
    return Row(f"Wav2Vec2{head}", {**SIZES, **options}, task, inputs, name, **kwargs)


CLASSES = {"num_labels": 5}
ROWS = [
    row("Model", None, {}, padded_sound, full=True),
    row("Model", None, OTHER, padded_sound, "other", full=True),
    row("Model", None, {}, sound, "unpadded"),
    row("Model", None, {}, hidden_sound, "hidden"),
    row("Model", None, UNMASKED, hidden_sound, "not augmented"),
    row("Model", None, ADAPTER, padded_sound, "adapter", full=True),
    row("Model", None, {**OTHER, **NARROW}, padded_sound, "narrow adapter", full=True),
    row("ForCTC", "CTC", {}, padded_sound, full=True, gradient=True),
    row("ForCTC", "CTC", OTHER, sound, "other", full=True, gradient=True),
    row("ForCTC", "CTC", NARROW, padded_sound, "narrow adapter"),
    row("ForPreTraining", "PreTraining", {}, contrasted_sound, full=True),
    row("ForPreTraining", "PreTraining", OTHER, contrasted_sound, "other", full=True),
    row("ForPreTraining", "PreTraining", {}, sound, "unpadded"),
    row("ForSequenceClassification", "AudioClassification", CLASSES, padded_sound, full=True),
    row("ForSequenceClassification", "AudioClassification", OTHER, sound, "other"),
    row("ForSequenceClassification", "AudioClassification", {**OTHER, **CLASSES}, padded_sound, "weighted"),
    row("ForAudioFrameClassification", "AudioFrameClassification", CLASSES, padded_sound),
    row("ForAudioFrameClassification", "AudioFrameClassification", OTHER, sound, "other"),
    row("ForXVector", "AudioXVector", CLASSES, padded_sound),
    row("ForXVector", "AudioXVector", OTHER, padded_sound, "other", full=True),
    row("ForXVector", "AudioXVector", {**OTHER, **CLASSES}, sound, "unpadded"),
]
