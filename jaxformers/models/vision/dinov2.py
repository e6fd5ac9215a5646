"""DINOv2: ViT with a learned scale on every branch, positions resized to each image, perhaps a gated MLP."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from flax import linen as nn

from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.vision import FeatureTokens, ImageClassifier, first_and_mean
from jaxformers.models import Family, Task, register
from jaxformers.models.vision.stages import StagedConfig
from jaxformers.models.vision.vit import (
    ATTENTION_MODULES,
    CLASSIFIER,
    EMBEDDING_KEYS,
    LAYER,
    image_attention,
    image_embeddings,
    vit_init,
)
from jaxformers.nn.image_encoder import FirstToken, ImageEncoder
from jaxformers.nn.layer_scale import LayerScale
from jaxformers.nn.mlp import GatedMlp, Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.patch import Token, pair
from jaxformers.nn.residual import prenorm
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class Dinov2Config(StagedConfig):
    model_type: ClassVar[str] = "dinov2"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int | tuple = 224
    patch_size: int | tuple = 14
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    use_mask_token: bool = True

    def resolve(self) -> None:
        self.name_stages(self.num_hidden_layers)


def feed_forward(c: Any) -> nn.Module:
    """Plain, or SwiGLU with two thirds of the width, rounded up to a multiple of eight."""
    width = int(c.hidden_size * c.mlp_ratio)
    if not c.use_swiglu_ffn:
        return Mlp(width, activation(c.hidden_act))
    return GatedMlp((int(width * 2 / 3) + 7) // 8 * 8, jax.nn.silu, bias=True)


def dinov2(c: Any) -> ImageEncoder:
    norm, scale = LayerNorm(c.layer_norm_eps), LayerScale(c.layerscale_value)
    block = prenorm(image_attention(c), feed_forward(c), norm, post=scale, drop_path=c.drop_path_rate)
    mask = Token(c.hidden_size, rank=2) if c.use_mask_token else None
    embeddings = image_embeddings(c, mask=mask, any_size=True)
    layers = Stack(Layers((block,) * c.num_hidden_layers))
    return ImageEncoder(embeddings, layers, norm, FirstToken(), c.num_channels)


def dinov2_keys(c: Any) -> KeyMap:
    """ViT's names; the gated feed-forward keeps gate and up in one tensor."""
    keys = EMBEDDING_KEYS | KeyMap(
        {
            "layers.{i}.attn_pre": LAYER + "norm1",
            "layers.{i}.mlp_pre": LAYER + "norm2",
            "layers.{i}.attn_post.gain": LAYER + "layer_scale1.lambda1",
            "layers.{i}.mlp_post.gain": LAYER + "layer_scale2.lambda1",
            "layers.{i}.mlp.{*}": LAYER + "mlp.{*}",
        }
    )
    if not c.use_swiglu_ffn:
        return keys
    width = feed_forward(c).width  # type: ignore[attr-defined]
    return keys | KeyMap(
        {
            "layers.{i}.mlp.gate_proj": Part(LAYER + "mlp.weights_in", (2, width), 0),
            "layers.{i}.mlp.up_proj": Part(LAYER + "mlp.weights_in", (2, width), 1),
            "layers.{i}.mlp.down_proj": LAYER + "mlp.weights_out",
        }
    )


def feature_maps(c: Any, encoder: nn.Module) -> FeatureTokens:
    """The encoder as a backbone."""
    return FeatureTokens(encoder, c.out_places, pair(c.patch_size), c.apply_layernorm, c.reshape_hidden_states)


TASKS = {
    "ImageClassification": Task(
        "Dinov2ForImageClassification", lambda c, b: ImageClassifier(b, c.num_labels, first_and_mean), CLASSIFIER
    ),
    "Backbone": Task("Dinov2Backbone", feature_maps, prefix=""),
}

register(Family(Dinov2Config, "Dinov2Model", dinov2, dinov2_keys, "dinov2", TASKS, vit_init, modules=ATTENTION_MODULES))
