"""Which leaves an optimiser treats apart: no weight decay on biases and norms, smaller steps in lower layers."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.core.keymap import logical_path
from jaxformers.hub.abstract import Path
from jaxformers.training.trainable import logical_names, word

# Of our leaves: a norm's "scale", a "bias" or a table of biases (T5), Swin's "offsets".
UNDECAYED = re.compile(r"(^|/)(bias|scale|offsets)(/|$)")
# Leaves outside all layers that come before the first.
BOTTOM = {"embed", "embeddings", "embedding", "shared", "stem", "positions", "cls", "patches", "types", "mask"}


def decays(name: str) -> bool:
    """Whether transformers' Trainer decays a leaf: all but biases and norms.

    Its patterns miss the norms of ResNet and Mamba, which it decays; here no norm is.
    """
    return UNDECAYED.search(name) is None


def by_name(accepts: Callable[[str], bool]) -> Callable[[Any], Any]:
    """A mask for optax, `tree -> tree of bools`, from a predicate of names; of stacked layers the first counts."""
    return lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: accepts(first_name(path)), tree)


def first_name(path: tuple) -> str:
    """The name of a leaf in a tree of parameters, "layers/3/attn/q_proj/weight"; of stacked layers the first's."""
    return logical_names(tuple(map(word, path)))[0]


def layer_factors(paths: Iterable[Path], decay: float) -> dict[Path, list[float]]:
    """For each leaf `decay ** (layers above it)`, one number for each layer stacked in it.

    What lies under the layers (embeddings) counts as a layer below the first, what lies above them (heads, the last
    norm) has 1. Towers and encoder and decoder count apart; Swin's and ResNet's stages go on from each other.
    Source: arXiv:2106.08254, arXiv:2003.10555.
    """
    paths = list(paths)
    found = {path: places(path) for path in paths}
    tops: dict[tuple[str, int], int] = {}
    for stack, stage, layers in found.values():
        tops[stack, stage] = max(tops.get((stack, stage), 0), 1 + max(layers, default=-1))

    def below(stack: str, stage: int) -> int:
        return sum(count for (name, number), count in tops.items() if name == stack and number < stage)

    def factors(path: Path) -> list[float]:
        stack, stage, layers = found[path]
        depth = below(stack, 1 << 30)
        if layers:
            return [decay ** (depth - below(stack, stage) - layer) for layer in layers]
        if stage >= 0:
            return [decay ** (depth - below(stack, stage + 1) + 1)]
        heights = [below(name, 1 << 30) for name, _ in tops]
        return [decay ** (1 + max(heights, default=0))] if BOTTOM & set(path) else [1.0]

    return {path: factors(path) for path in paths}


def places(path: Path) -> tuple[str, int, list[int]]:
    """Which stack a leaf is in, which of its stages (-1: none), and the layers it holds."""
    logical, rows = logical_path(path)
    words = logical.split(".")
    at = next((i for i, w in enumerate(words) if w == "{}" or w.isdigit()), None)
    layers = [] if at is None else list(rows) if rows is not None else [int(words[at])]
    before = words if at is None else words[:at]
    staged = next((i for i, w in enumerate(before) if re.fullmatch(r"stages_\d+", w)), None)
    if staged is not None:
        return "/".join(before[:staged]), int(before[staged].removeprefix("stages_")), layers
    return ("/".join(before), 0, layers) if layers else ("", -1, layers)


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Multiply updates by each leaf's factor, after everything else: as if each layer had its own learning rate."""

    def update(updates: Any, params: Any) -> Any:
        del params
        leaves = jax.tree_util.tree_leaves_with_path(updates)
        factors = layer_factors([tuple(map(word, path)) for path, _ in leaves], decay)

        def one(path: tuple, leaf: jax.Array) -> jax.Array:
            values = factors[tuple(map(word, path))]
            factor = jnp.asarray(values, leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1))
            return leaf * (factor if len(values) > 1 else values[0])

        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.stateless(update)
