"""Moe: a router chooses a few experts for each token; the feed-forward of sparse models."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.context import Context
from jaxformers.nn.param import ZEROS, Normal, param
from jaxformers.ops.dot import dot
from jaxformers.ops.moe import moe
from jaxformers.ops.moe_forms import Product, Stacked, Weights
from jaxformers.ops.top_k import largest


@struct.dataclass
class Route:
    """A router's decision about tokens [...,D]."""

    logits: jax.Array  # [...,E]
    scores: jax.Array  # [...,K], float32
    index: jax.Array  # Int [...,K]: the chosen experts


class SoftmaxRouter(nn.Module):
    """Softmax over all experts, then the best `top_k`; their scores may be made to sum to one again."""

    experts: int
    top_k: int
    normalize: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> Route:
        logits = dot(x, param(self, "kernel", Normal(), (x.shape[-1], self.experts), ("embed", None)))
        scores, index = largest(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), self.top_k)
        if self.normalize:
            scores = scores / scores.sum(axis=-1, keepdims=True)
        return Route(logits, scores, index)


class ChosenSoftmaxRouter(nn.Module):
    """The best `top_k` experts, then softmax over these alone."""

    experts: int
    top_k: int

    @nn.compact
    def __call__(self, x: jax.Array) -> Route:
        logits = dot(x, param(self, "kernel", Normal(), (x.shape[-1], self.experts), ("embed", None)))
        logits = logits + param(self, "bias", ZEROS, (self.experts,), (None,))
        best, index = largest(logits, self.top_k)
        return Route(logits, jax.nn.softmax(best.astype(jnp.float32), axis=-1), index)


class GroupedSigmoidRouter(nn.Module):
    """Sigmoid scores; a bias, which only steers the choice, evens out the load. Source: arXiv:2412.19437.

    Experts come in `groups`; a token may choose from its best `top_groups`, ranked by their two best experts.
    """

    experts: int
    top_k: int
    groups: int = 1
    top_groups: int = 1
    normalize: bool = True
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> Route:
        kernel = param(self, "kernel", Normal(), (x.shape[-1], self.experts), ("embed", None))
        logits = dot(x.astype(jnp.float32), kernel.astype(jnp.float32))
        scores = jax.nn.sigmoid(logits)
        ranked = scores + param(self, "correction", ZEROS, (self.experts,), (None,)).astype(jnp.float32)
        by_group = ranked.reshape(*ranked.shape[:-1], self.groups, self.experts // self.groups)
        group_scores = largest(by_group, 2)[0].sum(axis=-1)
        best = largest(group_scores, self.top_groups)[1]
        allowed = jax.nn.one_hot(best, self.groups, dtype=bool).any(axis=-2)
        ranked = jnp.where(allowed[..., None], by_group, -jnp.inf).reshape(ranked.shape)
        index = largest(ranked, self.top_k)[1]
        chosen = jnp.take_along_axis(scores, index, axis=-1)
        if self.normalize:
            chosen = chosen / (chosen.sum(axis=-1, keepdims=True) + 1e-20)
        return Route(logits, chosen * self.scale, index)


class ExpertKernel(nn.Module):
    """One kernel for each expert, [E,in,out], and perhaps a bias [E,out]; axes: the names of (in, out)."""

    experts: int
    shape: tuple[int, int]
    axes: tuple[str | None, str | None]
    bias: bool = False

    @nn.compact
    def __call__(self) -> Stacked:
        kernel = param(self, "kernel", Normal(), (self.experts, *self.shape), ("expert", *self.axes))
        if not self.bias:
            return Stacked(kernel, None, self.axes)
        bias = param(self, "bias", ZEROS, (self.experts, self.shape[1]), ("expert", self.axes[1]))
        return Stacked(kernel, bias, self.axes)


class GatedExperts(nn.Module):
    """down(act(gate(x)) * up(x)) for each expert."""

    experts: int
    width: int
    act: Callable = jax.nn.silu

    @nn.compact
    def __call__(self, x: jax.Array, route: Route) -> jax.Array:
        up_shape, up_axes = (x.shape[-1], self.width), ("embed", "mlp")
        gate = ExpertKernel(self.experts, up_shape, up_axes, name="gate_proj")()
        up = ExpertKernel(self.experts, up_shape, up_axes, name="up_proj")()
        down = ExpertKernel(self.experts, (self.width, x.shape[-1]), ("mlp", "embed"), name="down_proj")()

        def ffn(rows: jax.Array, product: Product, weights: Weights) -> jax.Array:
            gate, up, down = weights
            return product(self.act(product(rows, gate)) * product(rows, up), down)

        return moe(x, route.index, route.scores, ffn, (gate, up, down), experts=self.experts)


class ClampedExperts(nn.Module):
    """down((up + 1) * gate * sigmoid(alpha * gate)), both clamped at `limit`; gate and up are interleaved (gpt-oss)."""

    experts: int
    width: int
    alpha: float = 1.702
    limit: float = 7.0

    @nn.compact
    def __call__(self, x: jax.Array, route: Route) -> jax.Array:
        width = x.shape[-1]
        both = ExpertKernel(self.experts, (width, 2 * self.width), ("embed", "mlp"), True, name="gate_up_proj")()
        down = ExpertKernel(self.experts, (self.width, width), ("mlp", "embed"), True, name="down_proj")()

        def ffn(rows: jax.Array, product: Product, weights: Weights) -> jax.Array:
            both, down = weights
            h = product(rows, both)
            gate = jnp.minimum(h[..., ::2], self.limit)
            up = jnp.clip(h[..., 1::2], -self.limit, self.limit)
            return product((up + 1) * (gate * jax.nn.sigmoid(self.alpha * gate)), down)

        return moe(x, route.index, route.scores, ffn, (both, down), experts=self.experts)


class Moe(nn.Module):
    """experts(x, router(x)) + shared(x); records the router's logits."""

    router: nn.Module
    experts: nn.Module
    shared: nn.Module | None = None  # a feed-forward branch that every token runs through
    jitter: float = 0.0  # in training, tokens are scaled at random within 1 - jitter .. 1 + jitter

    def __call__(self, x: jax.Array, ctx: Context, state=None):
        if ctx.train and self.jitter > 0.0:
            noise = jax.random.uniform(self.make_rng("dropout"), x.shape, minval=-self.jitter, maxval=self.jitter)
            x = x * (1.0 + noise).astype(x.dtype)
        route = self.router(x)
        y = self.experts(x, route)
        if self.shared is not None:
            y = y + self.shared(x, ctx)[0]
        if not ctx.records("router_logits"):
            return y, state, {}
        return y, state, {"router_logits": route.logits.reshape(-1, route.logits.shape[-1])}
