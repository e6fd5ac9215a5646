"""Swin: stages of windowed attention on ever smaller feature maps. Source: arXiv:2103.14030."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.context import Context, recording
from jaxformers.core.outputs import Array, Layers, ModelOutput
from jaxformers.nn.param import dropout
from jaxformers.nn.patch import GridPositions, PatchEmbed, Size, masked, read_pixels, size_of
from jaxformers.nn.stack import Stack
from jaxformers.nn.stages import channels_first


@struct.dataclass
class StagedOutput(ModelOutput):
    """What a staged encoder returns: tokens [B,T,D], and each stage's also as images [B,D,h,w]."""

    last_hidden_state: Array
    pooler_output: Array | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    reshaped_hidden_states: Layers | None = None


def tokens(x: jax.Array) -> jax.Array:
    """[B,H,W,C] -> [B,H*W,C]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


class WindowEmbeddings(nn.Module):
    """dropout(norm(patches) + positions), images padded to whole patches; there is no class token."""

    patches: PatchEmbed
    norm: nn.Module
    image: Size
    positions: GridPositions | None = None
    mask: nn.Module | None = None
    dropout: float = 0.0

    def __call__(self, x: jax.Array, where: jax.Array | None, resize: bool, train: bool) -> jax.Array:
        p, q = self.patches.patch
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % p), (0, -x.shape[2] % q), (0, 0)))
        x = self.norm(self.patches(x))
        shape, grid = x.shape, size_of(x)
        x = masked(tokens(x), self.mask, where)
        if self.positions is not None:
            x = self.positions(x, grid if resize else None)
        return dropout(self, x, self.dropout, train).reshape(shape)


class WindowStage(nn.Module):
    """layers -> merge: blocks at one resolution, then perhaps half of it. Returns both, and the last attention."""

    layers: Stack
    merge: nn.Module | None = None

    def __call__(self, x: jax.Array, ctx: Context) -> tuple[jax.Array, jax.Array, Layers]:
        x, _, records = self.layers(x, ctx)
        return x, x if self.merge is None else self.merge(x), records.get("attentions", ())[-1:]


class WindowEncoder(nn.Module):
    """embeddings -> stages -> norm, and the mean of all places when `pool`."""

    embeddings: WindowEmbeddings
    stages: tuple[WindowStage, ...]
    norm: nn.Module
    pool: bool = True
    channels: int = 3

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return {"pixel_values": jax.ShapeDtypeStruct((1, self.channels, *self.embeddings.image), jnp.float32)}

    def run(
        self,
        pixel_values: jax.Array,
        bool_masked_pos: jax.Array | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> tuple[list[jax.Array], list[jax.Array], Layers]:
        """Each stage's output before its merging and after it, the embeddings first; and attentions of each stage."""
        x = read_pixels(pixel_values, self.channels)
        x = self.embeddings(x, bool_masked_pos, interpolate_pos_encoding, train)
        ctx = Context.plain(1, train=train, record=recording(attentions=output_attentions))
        before, after, attentions = [x], [x], ()
        for stage in self.stages:
            wide, x, seen = stage(x, ctx)
            before.append(wide)
            after.append(x)
            attentions += seen
        return before, after, attentions

    def maps(self, pixel_values: jax.Array, **kwargs) -> tuple[list[jax.Array], Layers]:
        """The embeddings and each stage's output before its merging, [B,h,w,C], and attentions; for backbones."""
        before, after, attentions = self.run(pixel_values, **kwargs)
        self.norm(after[-1])  # transformers' backbone keeps this norm in its checkpoints, though nothing reads it
        return before, attentions

    def __call__(self, pixel_values: jax.Array, *args, output_hidden_states: bool = False, **kwargs) -> StagedOutput:
        """Encode images [B,C,H,W]; further arguments are those of `run`."""
        _, maps, attentions = self.run(pixel_values, *args, **kwargs)
        x = self.norm(tokens(maps[-1]))
        return StagedOutput(
            last_hidden_state=x,
            pooler_output=x.mean(axis=1) if self.pool else None,
            hidden_states=tuple(map(tokens, maps)) if output_hidden_states else None,
            attentions=attentions or None,
            reshaped_hidden_states=tuple(map(channels_first, maps)) if output_hidden_states else None,
        )
