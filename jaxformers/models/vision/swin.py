"""Swin: attention inside shifted windows, and half the resolution after each stage."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.vision import FeatureMaps, ImageClassifier, MaskedImageModeling, PixelShuffle, pooled
from jaxformers.models import Family, Task, register
from jaxformers.models.vision.stages import StagedConfig, drop_rates
from jaxformers.models.vision.vit import CLASSIFIER
from jaxformers.nn.mlp import Mlp
from jaxformers.nn.norm import LayerNorm
from jaxformers.nn.patch import GridPositions, PatchEmbed, Token, grid_of, pair
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stack import Layers, Stack
from jaxformers.nn.swin import WindowEmbeddings, WindowEncoder, WindowStage
from jaxformers.nn.window import PatchMerge, WindowAttention
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class SwinConfig(StagedConfig):
    model_type: ClassVar[str] = "swin"
    aliases: ClassVar[dict[str, str]] = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}

    image_size: int | tuple = 224
    patch_size: int | tuple = 4
    num_channels: int = 3
    embed_dim: int = 96
    depths: tuple = (2, 2, 6, 2)
    num_heads: tuple = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    encoder_stride: int = 32
    num_layers: int | None = None
    hidden_size: int | None = None

    def resolve(self) -> None:
        self.name_stages(len(self.depths))
        self._set("num_layers", len(self.depths))
        self._set("hidden_size", int(self.embed_dim * 2 ** (len(self.depths) - 1)))

    def validate(self) -> None:
        if len(self.num_heads) < len(self.depths):
            raise ConfigError(f"num_heads {self.num_heads} names fewer stages than depths {self.depths}")


def block(c: Any, stage: int, place: int, rate: float, fit: bool) -> Block:
    """One layer; every other one has its windows shifted by half their size. Only the attention is dropped whole."""
    norm, width = LayerNorm(c.layer_norm_eps), c.embed_dim * 2**stage
    shift = c.window_size // 2 if place % 2 else 0
    attn = WindowAttention(
        c.num_heads[stage], c.window_size, shift, c.qkv_bias, fit, dropout=c.attention_probs_dropout_prob
    )
    mlp = Mlp(int(c.mlp_ratio * width), activation(c.hidden_act))
    drop = c.hidden_dropout_prob
    return Block(
        (
            Residual("attn", attn, pre=norm, dropout=drop, drop_path=rate),
            Residual("mlp", mlp, pre=norm, dropout=drop),
        )
    )


def encoder(c: Any, *, mask: nn.Module | None = None, pool: bool = True, fit: bool = True) -> WindowEncoder:
    """The base model. fit: images of a window's size are not shifted, and smaller ones refused."""
    rates, stages = drop_rates(c.drop_path_rate, c.depths), []
    for n in range(len(c.depths)):
        layers = Layers(tuple(block(c, n, i, rate, fit) for i, rate in enumerate(rates[n])))
        stages.append(WindowStage(Stack(layers), PatchMerge() if n < len(c.depths) - 1 else None))
    grid = GridPositions(grid_of(c.image_size, c.patch_size), extra=0) if c.use_absolute_embeddings else None
    embeddings = WindowEmbeddings(
        PatchEmbed(c.embed_dim, pair(c.patch_size)),
        LayerNorm(1e-5),
        pair(c.image_size),
        grid,
        mask,
        c.hidden_dropout_prob,
    )
    return WindowEncoder(embeddings, tuple(stages), LayerNorm(c.layer_norm_eps), pool, c.num_channels)


def masked_swin(c: Any) -> WindowEncoder:
    """The encoder with a mask token, which only masked image modeling has."""
    return encoder(c, mask=Token(c.embed_dim), pool=False)


def backbone(c: Any) -> WindowEncoder:
    """The encoder as a backbone: it pads images to whole windows."""
    return encoder(c, pool=False, fit=False)


def feature_maps(c: Any, base: nn.Module) -> FeatureMaps:
    """A norm for each stage that is returned."""
    return FeatureMaps(base, c.out_places, tuple(LayerNorm(1e-5) for _ in c.out_places))


def norm_keys(c: Any) -> KeyMap:
    """A backbone's file is flat but for the norm that nothing reads."""
    names = {f"norms_{i}": f"hidden_states_norms.{name}" for i, name in enumerate(c.out_features)}
    return KeyMap({**names, "backbone.norm": Part("swin.layernorm", also=("layernorm",))})


STAGE = "encoder.layers.{s}."
LAYER = STAGE + "blocks.{i}."
OURS = "stages_{s}.layers.{i}."
SWIN_KEYS = KeyMap(
    {
        "embeddings.patches": "embeddings.patch_embeddings.projection",
        "embeddings.norm": "embeddings.norm",
        "embeddings.mask.token": "embeddings.mask_token",
        "embeddings.positions.table": "embeddings.position_embeddings",
        **{f"{OURS}attn.{p[0]}_proj": f"{LAYER}attention.self.{p}" for p in ("query", "key", "value")},
        OURS + "attn.offsets": LAYER + "attention.self.relative_position_bias_table",
        OURS + "attn.o_proj": LAYER + "attention.output.dense",
        OURS + "attn_pre": LAYER + "layernorm_before",
        OURS + "mlp_pre": LAYER + "layernorm_after",
        OURS + "mlp.fc1": LAYER + "intermediate.dense",
        OURS + "mlp.fc2": LAYER + "output.dense",
        "stages_{s}.merge.norm": STAGE + "downsample.norm",
        "stages_{s}.merge.reduce": STAGE + "downsample.reduction",
        "norm": "layernorm",
    },
    ignore=(r"relative_position_index$",),
)

TASKS = {
    "MaskedImageModeling": Task(
        "SwinForMaskedImageModeling",
        lambda c, b: MaskedImageModeling(b, PixelShuffle(c.num_channels, c.encoder_stride), extra=0),
        KeyMap({"decoder.project": "decoder.0"}),
        backbone=masked_swin,
    ),
    "ImageClassification": Task(
        "SwinForImageClassification", lambda c, b: ImageClassifier(b, c.num_labels, pooled), CLASSIFIER
    ),
    "Backbone": Task("SwinBackbone", feature_maps, norm_keys, prefix="", backbone=backbone),
}

# Checkpoints keep the names of transformers 4; its version 5 calls the modules by others.
MODULES = (
    *((rf"attention\.self\.{name}$", f"attention.{name[0]}_proj") for name in ("query", "key", "value")),
    (r"attention\.output\.dense$", "attention.o_proj"),
    (r"intermediate\.dense$", "mlp.fc1"),
    (r"(\d)\.output\.dense$", r"\1.mlp.fc2"),
)

register(Family(SwinConfig, "SwinModel", encoder, SWIN_KEYS, "swin", TASKS, modules=MODULES))
