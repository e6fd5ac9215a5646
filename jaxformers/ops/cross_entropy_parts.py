"""What the forms of a head's cross-entropy have in common: scores and their loss, and who on a mesh has which part."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.core.sharding import AnyMesh, axes_of, free_axes, mesh_and_rules, spec
from jaxformers.ops.dot import as_rows, precision

IGNORED = -100
Pair = tuple[jax.Array, jax.Array]
Sums = tuple[jax.Array, jax.Array, jax.Array]


@dataclass(frozen=True)
class Scores:
    """How a matrix product becomes scores, and how their loss is taken. smoothing: the share of the uniform target."""

    scale: float = 1.0
    softcap: float | None = None
    smoothing: float = 0.0

    def of(self, x: jax.Array, matrix: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Scores of x [...,D] in float32, [...,V]."""
        rows = as_rows(x)
        z = product(rows, matrix, rows.ndim - 1, 1).reshape(*x.shape[:-1], matrix.shape[0])
        z = z if bias is None else z + bias.astype(jnp.float32)
        z = z if self.scale == 1.0 else z * self.scale
        return z if self.softcap is None else self.softcap * jnp.tanh(z / self.softcap)

    def back(self, d: jax.Array, z: jax.Array) -> jax.Array:
        """The gradient of the matrix product, from that of the scores `z`."""
        if self.softcap is not None:
            d = d * (1.0 - jnp.square(z / self.softcap))
        return d if self.scale == 1.0 else d * self.scale

    def loss(self, total: jax.Array, picked: jax.Array, mean: jax.Array) -> jax.Array:
        """Loss from the logarithm of the sum, the label's score and the mean score."""
        if self.smoothing == 0.0:  # a score of -inf must not make the rest NaN
            return total - picked
        return total - (1.0 - self.smoothing) * picked - self.smoothing * mean


def counted(loss: jax.Array, labels: jax.Array, words: int) -> jax.Array:
    """The loss where a label counts, NaN where it is no word."""
    loss = jnp.where((labels >= 0) & (labels < words), loss, jnp.nan)
    return jnp.where(labels == IGNORED, 0.0, loss)


@dataclass(frozen=True)
class Split:
    """Which mesh axes share out the tokens, the words and the matrix's width; nothing without a mesh."""

    tokens: PartitionSpec = PartitionSpec(None, None)  # of [B,T]
    words: PartitionSpec = PartitionSpec(None)  # of [V]
    width: tuple[str, ...] = ()  # axes of tokens, over which the matrix is spread, and its gradient is to be
    parts: tuple[int, int] = (1, 1)  # among how many devices tokens and words are shared out
    mesh: AnyMesh | None = None

    @classmethod
    def in_use(cls, shape: tuple[int, ...], matrix: tuple[int, ...]) -> "Split":
        """What the rules in use say of x and the matrix."""
        active = mesh_and_rules()
        if active is None:
            return cls()
        mesh, rules = active
        batch, length, words = spec(("batch", "length", "vocab"), (*shape[:2], matrix[0]), mesh, rules)
        width = axes_of(spec(("vocab", "embed"), matrix, mesh, rules)[1])
        width = width if {*width} <= {*axes_of(batch), *axes_of(length)} else ()
        split = cls(PartitionSpec(batch, length), PartitionSpec(words), width, mesh=mesh)
        sizes = [math.prod(mesh.shape[a] for a in axes(s)) for s in (split.tokens, split.words)]
        return replace(split, parts=(sizes[0], sizes[1]))

    @property
    def rows(self) -> PartitionSpec:
        """How x [B,T,D] is shared out."""
        return PartitionSpec(*self.tokens, None)

    @property
    def columns(self) -> PartitionSpec:
        """How the matrix [V,D] is shared out before a device gathers its rows."""
        return PartitionSpec(*self.words, self.width or None)

    @property
    def rest(self) -> tuple[str, ...]:
        """Axes of tokens over which the matrix is not spread."""
        return tuple(axis for axis in axes(self.tokens) if axis not in self.width)

    def __call__(self, function: Callable, inputs: tuple, outputs: tuple) -> Callable:
        """The function on each device's parts, or as it is. A gradient is traced where the mesh is no longer in use."""
        if self.mesh is None:
            return function
        names = frozenset(free_axes(self.mesh))
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=inputs, out_specs=outputs, axis_names=names, check_vma=False
        )


def axes(spec: PartitionSpec) -> tuple[str, ...]:
    """All mesh axes that a spec names."""
    return tuple(axis for entry in spec for axis in axes_of(entry))


def together(sums: Sums, split: Split) -> Sums:
    """Each token's logarithm of the sum, label's score and sum of scores, from those of every device's own words."""
    over = axes(split.words)
    if not over:
        return sums
    total, picked, added = sums
    top = jax.lax.pmax(total, over)
    rest, picked, added = jax.lax.psum((jnp.exp(total - top), picked, added), over)
    return top + jnp.log(rest), picked, added


def pick(z: jax.Array, at: jax.Array) -> jax.Array:
    """Each row's score at the place `at` [N], 0 where that is no place."""
    inside = (at >= 0) & (at < z.shape[1])
    found = jnp.take_along_axis(z, jnp.where(inside, at, 0)[:, None], axis=1)[:, 0]
    return jnp.where(inside, found, 0.0)


def product(a: jax.Array, b: jax.Array, over_a: int, over_b: int) -> jax.Array:
    """The matrix product over one axis of each, in float32."""
    contract = (((over_a,), (over_b,)), ((), ()))
    return jax.lax.dot_general(a, b, contract, precision=precision(a, b), preferred_element_type=jnp.float32)


def first_word(words: int, split: Split) -> jax.Array | int:
    """The place of this device's first word in the whole vocabulary, of which each device has so many."""
    over = axes(split.words)
    return jax.lax.axis_index(over) * words if over else 0
