"""ViT: patches and a class token through a pre-norm stack; the norm comes after all recorded hidden states."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxformers.core.config import Config
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.vision import ImageClassifier, MaskedImageModeling, PixelShuffle
from jaxformers.models import Family, Task, register
from jaxformers.nn.attention import Attention
from jaxformers.nn.encoder import Pooler
from jaxformers.nn.image_encoder import ImageEncoder
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.param import Normal
from jaxformers.nn.patch import GridPositions, ImageEmbeddings, PatchEmbed, Token, grid_of, pair
from jaxformers.nn.residual import prenorm
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class ViTConfig(Config):
    model_type: ClassVar[str] = "vit"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int | tuple = 224
    patch_size: int | tuple = 16
    num_channels: int = 3
    qkv_bias: bool = True
    encoder_stride: int = 16
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"

    def resolve(self) -> None:
        self.default("pooler_output_size", self.hidden_size)


def image_attention(c: Any) -> Attention:
    """Attention of ViT and its kin."""
    heads = c.num_attention_heads
    dim = c.hidden_size // heads
    rate = c.attention_probs_dropout_prob
    return Attention(heads, heads, dim, qkv_bias=c.qkv_bias, out_bias=True, dropout=rate)


def image_embeddings(c: Any, **changes: Any) -> ImageEmbeddings:
    """Patches, class token and positions of ViT and its kin."""
    return ImageEmbeddings(
        PatchEmbed(c.hidden_size, pair(c.patch_size)),
        Token(c.hidden_size),
        GridPositions(grid_of(c.image_size, c.patch_size)),
        pair(c.image_size),
        dropout=c.hidden_dropout_prob,
        **changes,
    )


def unpooled(c: Any) -> ImageEncoder:
    """The encoder without its pooler, as heads use it."""
    mlp = Mlp(c.intermediate_size, activation(c.hidden_act))
    norm = LayerNorm(c.layer_norm_eps)
    block = prenorm(image_attention(c), mlp, norm, dropout=c.hidden_dropout_prob)
    layers = Stack(Layers((block,) * c.num_hidden_layers))
    return ImageEncoder(image_embeddings(c), layers, norm, channels=c.num_channels)


def vit(c: Any) -> ImageEncoder:
    return unpooled(c).clone(pooler=Pooler(c.pooler_output_size, activation(c.pooler_act)))


def masked_vit(c: Any) -> ImageEncoder:
    """The encoder with a mask token, which only masked image modeling has."""
    encoder = unpooled(c)
    return encoder.clone(embeddings=image_embeddings(c, mask=Token(c.hidden_size)))


def vit_init(c: Any) -> dict[str, Normal]:
    """transformers truncates these a hundred deviations away, which is to say not at all."""
    return {r"embeddings\.(cls\.token|positions\.table)$": Normal(c.initializer_range)}


LAYER = "encoder.layer.{i}."
EMBEDDING_KEYS = KeyMap(
    {
        "embeddings.patches": "embeddings.patch_embeddings.projection",
        "embeddings.cls.token": "embeddings.cls_token",
        "embeddings.mask.token": "embeddings.mask_token",
        "embeddings.positions.table": "embeddings.position_embeddings",
        **{f"layers.{{i}}.attn.{p[0]}_proj": f"{LAYER}attention.attention.{p}" for p in ("query", "key", "value")},
        "layers.{i}.attn.o_proj": LAYER + "attention.output.dense",
        "norm": "layernorm",
    }
)
VIT_KEYS = EMBEDDING_KEYS | KeyMap(
    {
        "layers.{i}.attn_pre": LAYER + "layernorm_before",
        "layers.{i}.mlp_pre": LAYER + "layernorm_after",
        "layers.{i}.mlp.fc1": LAYER + "intermediate.dense",
        "layers.{i}.mlp.fc2": LAYER + "output.dense",
        "pooler.dense": "pooler.dense",
    }
)
CLASSIFIER = KeyMap({"head": "classifier"})

TASKS = {
    "MaskedImageModeling": Task(
        "ViTForMaskedImageModeling",
        lambda c, b: MaskedImageModeling(b, PixelShuffle(c.num_channels, c.encoder_stride), c.patch_size),
        KeyMap({"decoder.project": "decoder.0"}),
        backbone=masked_vit,
    ),
    "ImageClassification": Task(
        "ViTForImageClassification", lambda c, b: ImageClassifier(b, c.num_labels), CLASSIFIER, backbone=unpooled
    ),
}

# Checkpoints keep the names of transformers 4; its version 5 calls the modules by others.
ATTENTION_MODULES = (
    *((rf"attention\.attention\.{name}$", f"attention.{name[0]}_proj") for name in ("query", "key", "value")),
    (r"attention\.output\.dense$", "attention.o_proj"),
)
MODULES = (
    *ATTENTION_MODULES,
    (r"intermediate\.dense$", "mlp.fc1"),
    (r"(\d)\.output\.dense$", r"\1.mlp.fc2"),
    (r"encoder\.layer\.(\d+)\.", r"layers.\1."),
)

register(Family(ViTConfig, "ViTModel", vit, VIT_KEYS, "vit", TASKS, vit_init, modules=MODULES))
