"""Mamba-2's recurrence on TPUs: attention inside a chunk of tokens, a state between chunks, both in fast memory.

In plain JAX a chunk's decays [tokens, tokens, heads] pass through memory; here none does. The backward pass computes
them again, from the states kept before each chunk. Source: arXiv:2405.21060.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

TOKENS = 128  # of a chunk
HELD = 6 * 2**20  # bytes of fast memory for the states of the heads that share b and c


@dataclass(frozen=True)
class Settings:
    """What is fixed when a kernel is compiled."""

    interpret: Any = False  # True or pltpu.InterpretParams: run without a TPU


class Inputs(NamedTuple):
    """Arrays in memory, filled up to whole chunks, or a kernel's references to blocks; H = G x heads of a group."""

    x: Any  # [B,H,T,P]
    dt: Any  # [B,G,T,heads], the steps as columns
    passed: Any  # [B,G,T,heads], log of the decay since the chunk began
    passed_row: Any  # [B,H,1,T], the same
    b: Any  # [B,G,T,N]
    c: Any  # [B,G,T,N]
    first: Any = None  # [B,H,P,N], the state before the first token
    starts: Any = None  # [B,H,chunks,P,N], the states before each chunk
    d_y: Any = None  # [B,H,T,P]
    d_last: Any = None  # [B,H,P,N]


def bytes_held(heads: int, dim: int, states: int) -> int:
    """Fast memory that the states of a group of heads take, rows filled up to whole registers."""
    return heads * (-(-dim // 8) * 8) * (-(-states // 128) * 128) * 4


def state_space_dual(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """y [B,T,H,P] and the last state, float32; x [B,T,H,P], dt [B,T,H], a [H], b, c [B,T,G,N], state [B,H,P,N]."""
    batch, length, heads, _ = x.shape
    groups, more = b.shape[2], -length % TOKENS
    dt, a, b, c, state = (z.astype(jnp.float32) for z in (dt, a, b, c, state))
    # A step of no time changes no state.
    x, dt, b, c = (jnp.pad(z, [(0, 0), (0, more), *[(0, 0)] * (z.ndim - 2)]) for z in (x, dt, b, c))
    chunks = (batch, (length + more) // TOKENS, TOKENS, heads)
    passed = jnp.cumsum((dt * a).reshape(chunks), axis=2).reshape(dt.shape)
    x, b, c = (jnp.swapaxes(z, 1, 2) for z in (x, b, c))
    dt, passed = (jnp.swapaxes(z.reshape(batch, -1, groups, heads // groups), 1, 2) for z in (dt, passed))
    y, state = scan(settings, x, dt, passed, b, c, state)
    return jnp.swapaxes(y[:, :, :length], 1, 2), state


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(settings: Settings, x, dt, passed, b, c, first) -> tuple[jax.Array, jax.Array]:
    """`state_space_dual` of arrays as `Inputs` has them."""
    y, last, _ = forward(settings, Inputs(x, dt, passed, as_rows(passed), b, c, first), keep=False)
    return y, last


def as_rows(columns: jax.Array) -> jax.Array:
    """[B,G,T,heads] -> [B,H,1,T]."""
    batch, _, length, _ = columns.shape
    return jnp.swapaxes(columns, 2, 3).reshape(batch, -1, 1, length)


def as_columns(rows: jax.Array, groups: int) -> jax.Array:
    """[B,H,1,T] -> [B,G,T,heads]."""
    batch, heads, _, length = rows.shape
    return jnp.swapaxes(rows.reshape(batch, groups, heads // groups, length), 2, 3)


def scan_and_keep(settings: Settings, x, dt, passed, b, c, first):
    """The outputs, and what gradients need."""
    y, last, starts = forward(settings, Inputs(x, dt, passed, as_rows(passed), b, c, first), keep=True)
    return (y, last), (x, dt, passed, b, c, starts)


def scan_backward(settings: Settings, kept, grads):
    """Gradients of all inputs."""
    x, dt, passed, b, c, starts = kept
    inputs = Inputs(x, dt, passed, as_rows(passed), b, c, None, starts, *grads)
    d_x, d_dt, d_passed, d_b, d_c, d_first = backward(settings, inputs)
    groups = b.shape[1]
    return d_x.astype(x.dtype), as_columns(d_dt, groups), as_columns(d_passed, groups), d_b, d_c, d_first


scan.defvjp(scan_and_keep, scan_backward)


class Specs(NamedTuple):
    """How blocks lie in arrays, for a grid of (batch, group, chunk, head of the group); `turn` gives a step's chunk."""

    heads: int  # of a group
    dim: int
    states: int
    turn: Any

    def tokens(self) -> pl.BlockSpec:
        """[B,H,T,P]."""
        return pl.BlockSpec((None, None, TOKENS, self.dim), lambda b, g, t, h: (b, self.head(g, h), self.turn(t), 0))

    def head(self, group: Any, head: Any) -> Any:
        return group * self.heads + head

    def columns(self) -> pl.BlockSpec:
        """[B,G,T,heads]."""
        return pl.BlockSpec((None, None, TOKENS, self.heads), lambda b, g, t, h: (b, g, self.turn(t), 0))

    def row(self) -> pl.BlockSpec:
        """[B,H,1,T]."""
        return pl.BlockSpec((None, None, 1, TOKENS), lambda b, g, t, h: (b, self.head(g, h), 0, self.turn(t)))

    def shared(self) -> pl.BlockSpec:
        """[B,G,T,N]."""
        return pl.BlockSpec((None, None, TOKENS, self.states), lambda b, g, t, h: (b, g, self.turn(t), 0))

    def group_states(self) -> pl.BlockSpec:
        """[B,H,P,N], all heads of a group."""
        return pl.BlockSpec((None, self.heads, self.dim, self.states), lambda b, g, t, h: (b, g, 0, 0))

    def starts(self) -> pl.BlockSpec:
        """[B,H,chunks,P,N]."""
        shape = (None, None, None, self.dim, self.states)
        return pl.BlockSpec(shape, lambda b, g, t, h: (b, self.head(g, h), self.turn(t), 0, 0))


PARAMS = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"))


def forward(settings: Settings, x: Inputs, *, keep: bool) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """y, the last state, and the states before each chunk if they are kept."""
    (batch, heads, length, dim), (groups, states) = x.x.shape, (x.b.shape[1], x.b.shape[3])
    chunks, each = length // TOKENS, heads // groups
    specs = Specs(each, dim, states, lambda t: t)
    starts = jax.ShapeDtypeStruct((batch, heads, chunks, dim, states), jnp.float32) if keep else None
    return pl.pallas_call(
        forward_kernel,
        grid=(batch, groups, chunks, each),
        in_specs=[
            *(specs.tokens(), specs.columns(), specs.columns(), specs.row()),
            *(specs.shared(), specs.shared(), specs.group_states()),
        ],
        out_specs=[specs.tokens(), specs.group_states(), specs.starts() if keep else None],
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, length, dim), jnp.float32),
            jax.ShapeDtypeStruct((batch, heads, dim, states), jnp.float32),
            starts,
        ],
        scratch_shapes=[pltpu.VMEM((TOKENS, TOKENS), jnp.float32)],
        compiler_params=PARAMS,
        interpret=settings.interpret,
        name="jaxformers_dual_forward",
    )(*x[:7])


def product(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """Sum over one axis of each, in full float32."""
    dims = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def sums(x: jax.Array) -> jax.Array:
    """The sum of each row, as a row: [L,K] -> [1,L]."""
    return product(jnp.ones((8, x.shape[1]), jnp.float32), x, (1, 1))[:1]


def column(columns: Any, head: jax.Array) -> jax.Array:
    """One head's column [L,1] of [L,heads]."""
    values = columns[...]
    lane = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
    return jnp.sum(jnp.where(lane == head, values, 0.0), axis=1, keepdims=True)


class Decays(NamedTuple):
    """A head's decays in a chunk."""

    between: jax.Array  # [L,L], from token s to token l, 0 where s is later
    since: jax.Array  # [L,1], since the chunk began
    left: jax.Array  # [L,1], until it ends
    whole: jax.Array  # [1,1]


def decays(passed: jax.Array, row: jax.Array) -> Decays:
    """From the logarithms as a column [L,1] and as a row [1,L]."""
    later = jax.lax.broadcasted_iota(jnp.int32, (TOKENS, TOKENS), 0)
    earlier = jax.lax.broadcasted_iota(jnp.int32, (TOKENS, TOKENS), 1)
    between = jnp.exp(jnp.where(earlier <= later, passed - row, -jnp.inf))
    last = passed[TOKENS - 1 :]
    return Decays(between, jnp.exp(passed), jnp.exp(last - passed), jnp.exp(last))


def forward_kernel(x, dt, passed, row, b, c, first, y, state, starts, alike) -> None:
    """One head in one chunk; `state` holds those of the group until its last chunk. Scratch: c b^T [L,L]."""
    chunk, head = pl.program_id(2), pl.program_id(3)

    @pl.when(head == 0)
    def once() -> None:
        alike[...] = product(c[...], b[...], (1, 1))

    @pl.when(chunk == 0)
    def begin() -> None:
        state[head] = first[head]

    h = state[head]
    if starts is not None:
        starts[...] = h
    decay = decays(column(passed, head), row[...])
    given = x[...].astype(jnp.float32) * column(dt, head)
    y[...] = product(alike[...] * decay.between, given, (1, 0)) + decay.since * product(c[...], h, (1, 1))
    state[head] = decay.whole * h + product(given, b[...] * decay.left, (0, 0))


def backward(settings: Settings, x: Inputs) -> tuple[jax.Array, ...]:
    """Gradients of x, dt and passed as rows [B,H,1,T], b, c, and the first state."""
    (batch, heads, length, dim), (groups, states) = x.x.shape, (x.b.shape[1], x.b.shape[3])
    chunks, each = length // TOKENS, heads // groups
    specs = Specs(each, dim, states, lambda t: chunks - 1 - t)

    def like(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    rows, shared = like(batch, heads, 1, length), like(batch, groups, length, states)
    return pl.pallas_call(
        backward_kernel,
        grid=(batch, groups, chunks, each),
        in_specs=[
            *(specs.tokens(), specs.columns(), specs.columns(), specs.row(), specs.shared(), specs.shared()),
            *(specs.starts(), specs.tokens(), specs.group_states()),
        ],
        out_specs=[
            *(specs.tokens(), specs.row(), specs.row()),
            *(specs.shared(), specs.shared(), specs.group_states()),
        ],
        out_shape=[like(*x.x.shape), rows, rows, shared, shared, like(batch, heads, dim, states)],
        scratch_shapes=[pltpu.VMEM((TOKENS, TOKENS), jnp.float32)],
        compiler_params=PARAMS,
        interpret=settings.interpret,
        name="jaxformers_dual_backward",
    )(*x[:6], *x[7:])


def backward_kernel(
    x, dt, passed, row, b, c, start, d_y, d_last, d_x, d_dt, d_passed, d_b, d_c, d_state, alike
) -> None:
    """One head in one chunk, the last chunk first; `d_state` holds the states' gradients until the first chunk's."""
    chunk, head = pl.program_id(2), pl.program_id(3)

    @pl.when(head == 0)
    def once() -> None:
        alike[...] = product(c[...], b[...], (1, 1))
        d_b[...], d_c[...] = jnp.zeros_like(d_b), jnp.zeros_like(d_c)

    @pl.when(chunk == 0)
    def begin() -> None:
        d_state[head] = d_last[head]

    h, g, grad = start[...], d_state[head], d_y[...]
    decay, step = decays(column(passed, head), row[...]), column(dt, head)
    raw = x[...].astype(jnp.float32)
    given = raw * step
    mixed = alike[...] * decay.between
    d_mixed = product(grad, given, (1, 1))
    d_alike, turned = d_mixed * decay.between, d_mixed * mixed
    from_state, to_state = decay.since * product(grad, h, (1, 0)), decay.left * product(given, g, (1, 0))
    d_given = product(mixed, grad, (0, 0)) + decay.left * product(b[...], g, (1, 1))
    d_x[...], d_dt[...] = d_given * step, sums(d_given * raw)
    d_c[...] += product(d_alike, b[...], (1, 0)) + from_state
    d_b[...] += product(d_alike, c[...], (0, 0)) + to_state
    spent = sums(to_state * b[...])  # by each token on the decay until the chunk's end
    at_end = jnp.sum(spent, axis=1, keepdims=True) + decay.whole * jnp.sum(
        jnp.sum(g * h, axis=1, keepdims=True), axis=0, keepdims=True
    )
    lane = jax.lax.broadcasted_iota(jnp.int32, spent.shape, 1)
    d_row = sums(turned) - jnp.sum(turned, axis=0, keepdims=True) + sums(from_state * c[...]) - spent
    d_passed[...] = d_row + jnp.where(lane == TOKENS - 1, at_end, 0.0)
    d_state[head] = decay.whole * g + product(grad * decay.since, c[...], (0, 0))
