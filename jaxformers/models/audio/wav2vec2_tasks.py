"""The heads of wav2vec 2.0 under transformers' names."""

from typing import Any

from flax import linen as nn

from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.quantizer import ContrastivePretraining, Quantizer
from jaxformers.heads.waves import CTC, FrameClassifier, LayerSum, WaveClassifier, XVector
from jaxformers.models import Task
from jaxformers.nn.linear import Linear


def layer_sum(c: Any) -> LayerSum | None:
    """Weights of all layers, where the config asks for them."""
    return LayerSum() if c.use_weighted_layer_sum else None


def check_adapter(c: Any) -> None:
    """Raise ConfigError for heads that do not work with the adapter."""
    if c.add_adapter:
        raise ConfigError("classification does not work with the adapter; set add_adapter=False")


def classifier(c: Any, backbone: nn.Module) -> WaveClassifier:
    check_adapter(c)
    return WaveClassifier(backbone, layer_sum(c), c.classifier_proj_size, c.num_labels)


def frame_classifier(c: Any, backbone: nn.Module) -> FrameClassifier:
    check_adapter(c)
    return FrameClassifier(backbone, layer_sum(c), c.num_labels)


def ctc(c: Any, backbone: nn.Module) -> CTC:
    if c.vocab_size is None:
        raise ConfigError("vocab_size is None; CTC needs the number of letters")
    return CTC(backbone, vocab=c.vocab_size, dropout=c.final_dropout)


def xvector(c: Any, backbone: nn.Module) -> XVector:
    delays = tuple(zip(c.tdnn_dim, c.tdnn_kernel, c.tdnn_dilation, strict=True))
    return XVector(backbone, layer_sum(c), delays, c.xvector_output_dim, c.num_labels)


def pretraining(c: Any, backbone: nn.Module) -> ContrastivePretraining:
    if c.codevector_dim % c.num_codevector_groups:
        raise ConfigError(
            f"codevector_dim {c.codevector_dim} is not a multiple of num_codevector_groups {c.num_codevector_groups}"
        )
    return ContrastivePretraining(
        backbone,
        Quantizer(c.num_codevector_groups, c.num_codevectors_per_group, c.codevector_dim),
        Linear(c.proj_codevector_dim, True, ("embed", None)),
        Linear(c.proj_codevector_dim, True, (None, None)),
        c.feat_quantizer_dropout,
        c.contrastive_logits_temperature,
        c.diversity_loss_weight,
    )


SUM = KeyMap({"sum.weights": Part("layer_weights", exact=True)})
TASKS = {
    "PreTraining": Task(
        "Wav2Vec2ForPreTraining",
        pretraining,
        KeyMap(
            {
                "states": "project_hid",
                "codes": "project_q",
                "quantizer.codes": Part("quantizer.codevectors", exact=True),
                "quantizer.scores": "quantizer.weight_proj",
            }
        ),
    ),
    "CTC": Task("Wav2Vec2ForCTC", ctc, KeyMap({"head": "lm_head"})),
    "AudioClassification": Task(
        "Wav2Vec2ForSequenceClassification",
        classifier,
        SUM | KeyMap({"project": "projector", "head": "classifier"}),
    ),
    "AudioFrameClassification": Task(
        "Wav2Vec2ForAudioFrameClassification",
        frame_classifier,
        SUM | KeyMap({"head": "classifier"}),
    ),
    "AudioXVector": Task(
        "Wav2Vec2ForXVector",
        xvector,
        SUM
        | KeyMap(
            {
                "project": "projector",
                "delay_{i}": "tdnn.{i}.kernel",
                "embedding": "feature_extractor",
                "head": "classifier",
                "classes": Part("objective.weight", exact=True),
            }
        ),
    ),
}
