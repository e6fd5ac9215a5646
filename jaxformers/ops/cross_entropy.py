"""Cross-entropy of a language model's head, by default without ever holding the scores of all tokens.

The op is called with hidden states x [B,T,D], the head's matrix [V,D], labels Int [B,T] (-100 counts nothing) and
perhaps a bias [V]. Scores are `cap(scale * (x matrix^T + bias))`, with cap(s) = softcap * tanh(s / softcap). It returns
for each token the loss and the logarithm of the sum of exponentials (from which a z-loss is made), [B,T] in float32. A
label that is no word gives NaN.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.core.sharding import AnyMesh, axes_of, constrain, free_axes, mesh_and_rules, spec
from jaxformers.ops.dispatch import Op
from jaxformers.ops.dot import precision

IGNORED = -100
LARGE = 2**26  # scores on one device (256 MiB); fewer are not worth computing twice
AT_ONCE = 2**25  # scores that a chunk of tokens may take, when the caller names no size
Pair = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class Scores:
    """How a matrix product becomes scores, and how their loss is taken. smoothing: the share of the uniform target."""

    scale: float = 1.0
    softcap: float | None = None
    smoothing: float = 0.0

    def of(self, x: jax.Array, matrix: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Scores of x [...,D] in float32, [...,V]."""
        contract = (((x.ndim - 1,), (1,)), ((), ()))
        exact = precision(x, matrix)
        z = jax.lax.dot_general(x, matrix, contract, precision=exact, preferred_element_type=jnp.float32)
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


def plain(
    x: jax.Array,
    matrix: jax.Array,
    labels: jax.Array,
    bias: jax.Array | None = None,
    *,
    scores: Scores = Scores(),
    chunk: int | None = None,
) -> Pair:
    """All scores at once; `chunk` is for other implementations."""
    z = constrain(scores.of(x, matrix, bias), "batch", "length", "vocab")
    return cross_entropy(z, labels, scores)


def cross_entropy(z: jax.Array, labels: jax.Array, scores: Scores = Scores()) -> Pair:
    """What the op returns, of ready scores [...,V] and labels [...]."""
    z = z.astype(jnp.float32)
    total = jax.nn.logsumexp(z, axis=-1)
    picked = jnp.where(labels[..., None] == jnp.arange(z.shape[-1]), z, 0.0).sum(axis=-1)
    return counted(scores.loss(total, picked, z.mean(axis=-1)), labels, z.shape[-1]), total


def counted(loss: jax.Array, labels: jax.Array, words: int) -> jax.Array:
    """The loss where a label counts, NaN where it is no word."""
    loss = jnp.where((labels >= 0) & (labels < words), loss, jnp.nan)
    return jnp.where(labels == IGNORED, 0.0, loss)


linear_cross_entropy = Op("cross_entropy", plain)


@dataclass(frozen=True)
class Split:
    """Which mesh axes share out the tokens, the words and the matrix's width; nothing without a mesh."""

    tokens: PartitionSpec = PartitionSpec(None, None)  # of [B,T]
    words: PartitionSpec = PartitionSpec(None)  # of [V]
    width: str | None = None  # an axis of tokens, over which the matrix's gradient is to be spread
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
        width = spec(("vocab", "embed"), matrix, mesh, rules)[1]
        width = width if isinstance(width, str) and width in (*axes_of(batch), *axes_of(length)) else None
        split = cls(PartitionSpec(batch, length), PartitionSpec(words), width, mesh=mesh)
        sizes = [math.prod(mesh.shape[a] for a in axes(s)) for s in (split.tokens, split.words)]
        return replace(split, parts=(sizes[0], sizes[1]))

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


@linear_cross_entropy.register("chunked", priority=5)
def chunked(
    x: jax.Array,
    matrix: jax.Array,
    labels: jax.Array,
    bias: jax.Array | None = None,
    *,
    scores: Scores = Scores(),
    chunk: int | None = None,
) -> Pair:
    """Scores of `chunk` tokens at a time, computed again for the gradient. Tokens and words may be spread over a mesh.

    No tokens are moved between devices, and only numbers for each token between those that share out the words; the
    matrix's gradient is summed over devices once.
    """
    split = Split.in_use(x.shape, matrix.shape)
    tokens, words = labels.size // split.parts[0], matrix.shape[0] // split.parts[1]
    if chunk is None:
        if tokens * words <= LARGE:
            raise NotImplementedError(f"a device holds only {tokens * words} scores; name a chunk to force this form")
        chunk = max(AT_ONCE // words, 128)
    return in_chunks(x, matrix, bias, labels, scores, split, min(chunk, tokens))


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def in_chunks(x, matrix, bias, labels, scores: Scores, split: Split, chunk: int) -> Pair:
    """The loss and the logarithm of the sum for each token."""
    return forward(x, matrix, bias, labels, scores, split, chunk)[0]


def forward(x, matrix, bias, labels, scores: Scores, split: Split, chunk: int):
    """The result, and what the gradient needs."""
    words = matrix.shape[0]

    def local(x: jax.Array, matrix: jax.Array, bias: jax.Array | None, labels: jax.Array) -> Pair:
        at = labels.reshape(-1) - first_word(matrix, split)

        def one(_: None, part: Pair) -> tuple[None, tuple[jax.Array, ...]]:
            z = scores.of(part[0], matrix, bias)
            return None, (jax.nn.logsumexp(z, axis=1), pick(z, part[1]), z.sum(axis=1))

        parts = (cut(x.reshape(-1, x.shape[-1]), chunk), cut(at, chunk))
        total, *sums = (joined(y, at.size) for y in jax.lax.scan(one, None, parts)[1])
        over = axes(split.words)
        if over:
            top = jax.lax.pmax(total, over)
            rest, *sums = jax.lax.psum((jnp.exp(total - top), *sums), over)
            total = top + jnp.log(rest)
        loss = counted(scores.loss(total, sums[0], sums[1] / words), labels.reshape(-1), words)
        return loss.reshape(labels.shape), total.reshape(labels.shape)

    out = split(local, inputs(split), (split.tokens, split.tokens))(x, matrix, bias, labels)
    return out, (x, matrix, bias, labels, out[1])


def backward(scores: Scores, split: Split, chunk: int, kept, given: Pair):
    """Gradients of x, matrix and bias."""
    words = kept[1].shape[0]

    def local(x, matrix, bias, labels, total, of_loss, of_total):
        flat = labels.reshape(-1)
        of_loss = jnp.where(flat == IGNORED, 0.0, of_loss.reshape(-1))
        parts = (flat - first_word(matrix, split), total.reshape(-1), of_loss, of_total.reshape(-1))

        def one(sums, part):
            x, at, total, of_loss, of_total = part
            z = scores.of(x, matrix, bias)
            target = (1.0 - scores.smoothing) * (at[:, None] == jnp.arange(z.shape[1])) + scores.smoothing / words
            d = (of_loss + of_total)[:, None] * jnp.exp(z - total[:, None]) - of_loss[:, None] * target
            d = scores.back(d, z)
            rows = product(d.astype(x.dtype), matrix, 1, 0)
            rows = rows if axes(split.words) else rows.astype(x.dtype)
            columns = (product(d.astype(x.dtype), x, 0, 0), None if bias is None else d.sum(axis=0))
            return jax.tree.map(jnp.add, sums, columns), rows

        start = (jnp.zeros(matrix.shape, jnp.float32), None if bias is None else jnp.zeros(bias.shape, jnp.float32))
        flat_x = x.reshape(-1, x.shape[-1])
        sums, rows = jax.lax.scan(one, start, tuple(cut(y, chunk) for y in (flat_x, *parts)))
        rows = joined(rows, flat.size).reshape(x.shape)
        rows = jax.lax.psum(rows, axes(split.words)) if axes(split.words) else rows
        return rows.astype(x.dtype), *gathered(sums, matrix, bias, split)

    spread = PartitionSpec(*split.words, split.width)
    kinds = (*inputs(split), split.tokens, split.tokens, split.tokens)
    x, matrix, bias = split(local, kinds, (whole_rows(split), spread, split.words))(*kept, *given)
    return x, matrix, bias, None


in_chunks.defvjp(forward, backward)


def gathered(sums: tuple, matrix: jax.Array, bias: jax.Array | None, split: Split) -> tuple:
    """Gradients of matrix and bias, added up over all devices that saw other tokens."""
    columns, ends = sums
    over = axes(split.tokens)
    if split.width is not None:
        columns = jax.lax.psum_scatter(columns, split.width, scatter_dimension=1, tiled=True)
    rest = tuple(a for a in over if a != split.width)
    columns = jax.lax.psum(columns, rest) if rest else columns
    if bias is not None:
        ends = (jax.lax.psum(ends, over) if over else ends).astype(bias.dtype)
    return columns.astype(matrix.dtype), ends


def pick(z: jax.Array, at: jax.Array) -> jax.Array:
    """Each row's score at the place `at` [N], 0 where that is no place."""
    inside = (at >= 0) & (at < z.shape[1])
    found = jnp.take_along_axis(z, jnp.where(inside, at, 0)[:, None], axis=1)[:, 0]
    return jnp.where(inside, found, 0.0)


def product(a: jax.Array, b: jax.Array, over_a: int, over_b: int) -> jax.Array:
    """The matrix product over one axis of each, in float32."""
    contract = (((over_a,), (over_b,)), ((), ()))
    return jax.lax.dot_general(a, b, contract, precision=precision(a, b), preferred_element_type=jnp.float32)


def inputs(split: Split) -> tuple[PartitionSpec, ...]:
    """How x, matrix, bias and labels are shared out: the matrix's width is whole on every device."""
    return whole_rows(split), PartitionSpec(*split.words, None), split.words, split.tokens


def whole_rows(split: Split) -> PartitionSpec:
    """How x [B,T,D] is shared out."""
    return PartitionSpec(*split.tokens, None)


def first_word(matrix: jax.Array, split: Split) -> jax.Array | int:
    """The place of this device's first word in the whole vocabulary."""
    over = axes(split.words)
    return jax.lax.axis_index(over) * matrix.shape[0] if over else 0


def cut(x: jax.Array, chunk: int) -> jax.Array:
    """x [N,...] as chunks [N/chunk,chunk,...], the last one filled up with zeros."""
    missing = -x.shape[0] % chunk
    x = jnp.pad(x, ((0, missing),) + ((0, 0),) * (x.ndim - 1)) if missing else x
    return x.reshape(-1, chunk, *x.shape[1:])


def joined(x: jax.Array, count: int) -> jax.Array:
    """Chunks put together again, without what filled the last one up."""
    return x.reshape(-1, *x.shape[2:])[:count]
