"""Objects in an image: for each query a class and a box, and perhaps a mask of its pixels (DETR)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.outputs import Array, Layers, ModelOutput
from jaxformers.nn.attention import split_heads
from jaxformers.nn.conv import Conv, GroupNorm
from jaxformers.nn.linear import Linear
from jaxformers.nn.patch import PatchEmbed
from jaxformers.nn.resize import resize_nearest
from jaxformers.nn.set_predictor import Seen
from jaxformers.ops.attention import HIDDEN
from jaxformers.ops.dot import einsum

RECORDS = (
    "last_hidden_state",
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "encoder_last_hidden_state",
    "encoder_hidden_states",
    "encoder_attentions",
)


@struct.dataclass
class DetectionOutput(ModelOutput):
    """Scores of classes, the last being "no object", and boxes (center x, center y, width, height) in [0, 1].

    auxiliary_outputs: the same of every layer but the last, when config.auxiliary_loss asks for it.
    """

    logits: Array
    pred_boxes: Array
    pred_masks: Array | None = None
    auxiliary_outputs: tuple[dict[str, Array], ...] | None = None
    last_hidden_state: Array | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Array | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None


class Boxes(nn.Module):
    """Four numbers in [0, 1] from a network of three layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = jax.nn.relu(Linear(width, True, ("embed", None), name="layers_0")(x))
        x = jax.nn.relu(Linear(width, True, ("embed", None), name="layers_1")(x))
        return jax.nn.sigmoid(Linear(4, True, ("embed", None), name="layers_2")(x))


class ObjectDetector(nn.Module):
    """A class and a box for each query; with `masks`, also its pixels."""

    backbone: nn.Module
    classes: Linear
    boxes: Boxes
    masks: nn.Module | None = None

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(self, pixel_values: jax.Array | None = None, *args, **kwargs) -> DetectionOutput:
        """The arguments are those of `SetPredictor.predict`."""
        if self.masks is not None and pixel_values is None:
            raise ValueError("segmentation needs pixel_values: its masks are drawn from features of several sizes")
        out, seen = self.backbone.predict(pixel_values, *args, **kwargs)
        x, inner = out.last_hidden_state, out.intermediate_hidden_states
        earlier = None
        if inner is not None:
            earlier = tuple({"logits": self.classes(h), "pred_boxes": self.boxes(h)} for h in inner[:-1])
        return DetectionOutput(
            logits=self.classes(x),
            pred_boxes=self.boxes(x),
            pred_masks=None if self.masks is None else self.masks(x, out.encoder_last_hidden_state, seen),
            auxiliary_outputs=earlier,
            **{name: getattr(out, name) for name in RECORDS},
        )


class PlaceAttention(nn.Module):
    """How much each query looks at each place, shared out over heads and places together: [B,Q,h,w,heads]."""

    heads: int

    @nn.compact
    def __call__(self, queries: jax.Array, memory: jax.Array, real: jax.Array) -> jax.Array:
        width = queries.shape[-1]
        q = split_heads(Linear(width, True, ("embed", "heads"), name="q_proj")(queries), self.heads)
        k = split_heads(Linear(width, True, ("embed", "heads"), name="k_proj")(memory), self.heads)
        scores = einsum("bqnd,bhwnd->bqhwn", q * (width // self.heads) ** -0.5, k).astype(jnp.float32)
        scores = jnp.where(real[:, None, :, :, None], scores, HIDDEN)
        flat = jax.nn.softmax(scores.reshape(*scores.shape[:2], -1), axis=-1)
        return flat.reshape(scores.shape).astype(queries.dtype)


class ConvStep(nn.Module):
    """act(norm(3x3 convolution))."""

    features: int
    act: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(self.features, 3, padding=1, bias=True, name="conv")(x)
        return self.act(GroupNorm(min(8, self.features), name="norm")(x))


class MaskHead(nn.Module):
    """A mask for each query, drawn from where it looks and refined with ever larger feature maps of the backbone."""

    heads: int
    act: Callable = jax.nn.relu

    @nn.compact
    def __call__(self, queries: jax.Array, memory: jax.Array, seen: Seen) -> jax.Array:
        """Scores [B,Q,H,W] at the size of the backbone's largest feature map."""
        b, h, w, width = seen.features.shape
        count = queries.shape[1]

        def each(x: jax.Array) -> jax.Array:
            return jnp.repeat(x, count, axis=0)

        looks = PlaceAttention(self.heads, name="attention")(queries, memory.reshape(b, h, w, width), seen.real)
        x = jnp.concatenate([each(seen.features), looks.reshape(b * count, h, w, self.heads)], axis=-1)
        x = ConvStep(width + self.heads, self.act, name="conv_0")(x)
        x = ConvStep(width // 2, self.act, name="conv_1")(x)
        for n, larger in enumerate((seen.maps[2], seen.maps[1], seen.maps[0])):
            # The same for every query, so it is computed before it is repeated.
            detail = PatchEmbed(x.shape[-1], (1, 1), name=f"adapt_{n}")(larger)
            x = each(detail) + resize_nearest(x, detail.shape[1:3])
            x = ConvStep(width // 2 ** (n + 2), self.act, name=f"refine_{n}")(x)
        x = Conv(1, 3, padding=1, bias=True, name="out")(x)
        return x.reshape(b, count, *x.shape[1:3])
