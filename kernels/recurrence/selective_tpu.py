"""Mamba's selective scan on TPUs: the state stays in fast memory, its channels side by side, token after token.

In plain JAX a chunk's states [tokens, channels, states] pass through memory, several times; here none does. The
backward pass computes states again from those kept before each block of tokens. Source: arXiv:2312.00752.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

TOKENS = 128  # of a block: as b and c lie with tokens along the lanes
GROUP = 16  # tokens written out in a row: a whole tile of 16-bit numbers
ROWS = 8  # states are filled up to a multiple
LANES = 128  # channels of a block are one


@dataclass(frozen=True)
class Settings:
    """What is fixed when a kernel is compiled."""

    states_held: int = 2**13  # states times channels of a block: they are carried in registers
    interpret: Any = False  # True or pltpu.InterpretParams: run without a TPU


class Inputs(NamedTuple):
    """Arrays in memory, filled up to whole blocks, or a kernel's references to blocks of them."""

    x: Any  # [B,T,C]
    dt: Any  # [B,T,C]
    a: Any  # [N,C]
    b: Any  # [B,N,T]
    c: Any  # [B,N,T]
    first: Any = None  # [B,N,C], the state before the first token
    starts: Any = None  # [B,T/TOKENS,N,C], the states before each block
    d_y: Any = None  # [B,T,C]
    d_last: Any = None  # [B,N,C]


def selective_scan(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """y [B,T,C] and the last state [B,C,N], float32; x, dt [B,T,C], a [C,N], b, c [B,T,N], state [B,C,N]."""
    (_, length, width), states = x.shape, a.shape[1]
    rows = -(-states // ROWS) * ROWS
    block = channels_of(width, rows, settings)
    # A step of no time changes no state, and a state without input and output counts nothing.
    tokens, channels, more = -length % TOKENS, -width % block, rows - states
    x, dt = (jnp.pad(z, ((0, 0), (0, tokens), (0, channels))) for z in (x, dt.astype(jnp.float32)))
    b, c = (jnp.pad(z.astype(jnp.float32).swapaxes(1, 2), ((0, 0), (0, more), (0, tokens))) for z in (b, c))
    a, state = (z.astype(jnp.float32).swapaxes(-1, -2) for z in (a, state))
    a, state = jnp.pad(a, ((0, more), (0, channels))), jnp.pad(state, ((0, 0), (0, more), (0, channels)))
    y, state = scan((settings, block), x, dt, a, b, c, state)
    return y[:, :length, :width], state[:, :states, :width].swapaxes(1, 2)


def channels_of(width: int, rows: int, settings: Settings) -> int:
    """Channels of a block: a multiple of the lanes, and no more than there are."""
    most = max(settings.states_held // rows // LANES * LANES, LANES)
    whole = -(-width // LANES) * LANES
    count = -(-whole // most)
    return -(-whole // count // LANES) * LANES


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(fixed: tuple[Settings, int], x, dt, a, b, c, first) -> tuple[jax.Array, jax.Array]:
    """`selective_scan` of arrays as `Inputs` has them."""
    y, last, _ = forward(fixed, Inputs(x, dt, a, b, c, first), keep=False)
    return y, last


def scan_and_keep(fixed: tuple[Settings, int], *arrays: jax.Array):
    """The outputs, and what gradients need."""
    y, last, starts = forward(fixed, Inputs(*arrays), keep=True)
    return (y, last), (*arrays[:5], starts)


def scan_backward(fixed: tuple[Settings, int], kept, grads):
    """Gradients of all inputs."""
    *arrays, starts = kept
    x, dt, a, b, c, first = backward(fixed, Inputs(*arrays, None, starts, *grads))
    return x.astype(arrays[0].dtype), dt, a.sum(0), b.sum(1), c.sum(1), first


scan.defvjp(scan_and_keep, scan_backward)


class Specs(NamedTuple):
    """How blocks lie in arrays, for a grid of (batch, channels, tokens); `turn` gives the block of tokens of a step."""

    block: int
    rows: int
    turn: Any

    def tokens(self) -> pl.BlockSpec:
        """[B,T,C]."""
        return pl.BlockSpec((None, TOKENS, self.block), lambda b, c, t: (b, self.turn(t), c))

    def rates(self) -> pl.BlockSpec:
        """[N,C]."""
        return pl.BlockSpec((self.rows, self.block), lambda b, c, t: (0, c))

    def shared(self) -> pl.BlockSpec:
        """[B,N,T]."""
        return pl.BlockSpec((None, self.rows, TOKENS), lambda b, c, t: (b, 0, self.turn(t)))

    def state(self) -> pl.BlockSpec:
        """[B,N,C]."""
        return pl.BlockSpec((None, self.rows, self.block), lambda b, c, t: (b, 0, c))

    def starts(self) -> pl.BlockSpec:
        """[B,blocks of tokens,N,C]."""
        return pl.BlockSpec((None, None, self.rows, self.block), lambda b, c, t: (b, self.turn(t), 0, c))

    def parts(self) -> pl.BlockSpec:
        """[B,blocks of channels,N,T]."""
        return pl.BlockSpec((None, None, self.rows, TOKENS), lambda b, c, t: (b, c, 0, self.turn(t)))


PARAMS = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def forward(fixed: tuple[Settings, int], x: Inputs, *, keep: bool) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """y, the last state, and the states before each block if they are kept."""
    settings, block = fixed
    (batch, length, width), rows = x.x.shape, x.a.shape[0]
    blocks = length // TOKENS
    specs = Specs(block, rows, lambda t: t)
    starts = jax.ShapeDtypeStruct((batch, blocks, rows, width), jnp.float32) if keep else None
    return pl.pallas_call(
        forward_kernel,
        grid=(batch, width // block, blocks),
        in_specs=[specs.tokens(), specs.tokens(), specs.rates(), specs.shared(), specs.shared(), specs.state()],
        out_specs=[specs.tokens(), specs.state(), specs.starts() if keep else None],
        out_shape=[
            jax.ShapeDtypeStruct((batch, length, width), jnp.float32),
            jax.ShapeDtypeStruct((batch, rows, width), jnp.float32),
            starts,
        ],
        scratch_shapes=[pltpu.VMEM((rows, block), jnp.float32)],
        compiler_params=PARAMS,
        interpret=settings.interpret,
        name="jaxformers_selective_forward",
    )(*x[:6])


class Group(NamedTuple):
    """The tokens that are written out in a row: values [GROUP,C], and b, c turned so that theirs come first [N,·]."""

    x: jax.Array
    dt: jax.Array
    b: jax.Array
    c: jax.Array


def group(x, dt, b, c, at: jax.Array) -> Group:
    """Tokens at .. at + GROUP of a block."""
    rows = pl.ds(pl.multiple_of(at, GROUP), GROUP)
    turn = TOKENS - at
    return Group(x[rows, :].astype(jnp.float32), dt[rows, :], pltpu.roll(b[...], turn, 1), pltpu.roll(c[...], turn, 1))


def forward_kernel(x, dt, a, b, c, first, y, last, starts, h) -> None:
    """One block of tokens. Scratch: the state [N,C]."""
    step = pl.program_id(2)

    @pl.when(step == 0)
    def begin() -> None:
        h[...] = first[...]

    if starts is not None:
        starts[...] = h[...]
    rates = a[...]

    def tokens(i: jax.Array, state: jax.Array) -> jax.Array:
        at = i * GROUP
        now, out = group(x, dt, b, c, at), []
        for j in range(GROUP):
            one = slice(j, j + 1)
            state = jnp.exp(now.dt[one] * rates) * state + (now.dt[one] * now.x[one]) * now.b[:, one]
            out.append(jnp.sum(state * now.c[:, one], axis=0, keepdims=True))
        y[pl.ds(pl.multiple_of(at, GROUP), GROUP), :] = jnp.concatenate(out, axis=0)
        return state

    h[...] = jax.lax.fori_loop(0, TOKENS // GROUP, tokens, h[...])

    @pl.when(step == pl.num_programs(2) - 1)
    def end() -> None:
        last[...] = h[...]


def backward(fixed: tuple[Settings, int], x: Inputs) -> tuple[jax.Array, ...]:
    """Gradients of x, dt, a [B,N,C], b and c [B,blocks of channels,N,T], and the first state."""
    settings, block = fixed
    (batch, length, width), rows = x.x.shape, x.a.shape[0]
    blocks = length // TOKENS
    specs = Specs(block, rows, lambda t: blocks - 1 - t)
    tokens = jax.ShapeDtypeStruct((batch, length, width), jnp.float32)
    state = jax.ShapeDtypeStruct((batch, rows, width), jnp.float32)
    parts = jax.ShapeDtypeStruct((batch, width // block, rows, length), jnp.float32)
    shared, rates = specs.shared(), specs.rates()
    return pl.pallas_call(
        backward_kernel,
        grid=(batch, width // block, blocks),
        in_specs=[
            *(specs.tokens(), specs.tokens(), rates, shared, shared),
            *(specs.starts(), specs.tokens(), specs.state()),
        ],
        out_specs=[specs.tokens(), specs.tokens(), specs.state(), specs.parts(), specs.parts(), specs.state()],
        out_shape=[tokens, tokens, state, parts, parts, state],
        scratch_shapes=[pltpu.VMEM((TOKENS, rows, block), jnp.float32), pltpu.VMEM((rows, block), jnp.float32)],
        compiler_params=PARAMS,
        interpret=settings.interpret,
        name="jaxformers_selective_backward",
    )(*x[:5], *x[6:])


def backward_kernel(x, dt, a, b, c, starts, d_y, d_last, d_x, d_dt, d_a, d_b, d_c, d_first, before, grad) -> None:
    """One block of tokens, the last block first. Scratch: states before each token, the state's gradient [N,C]."""
    step = pl.program_id(2)

    @pl.when(step == 0)
    def begin() -> None:
        grad[...] = d_last[...]
        d_a[...] = jnp.zeros_like(d_a)

    rates = a[...]

    def again(i: jax.Array, state: jax.Array) -> jax.Array:
        now = group(x, dt, b, c, i * GROUP)
        for j in range(GROUP):
            one = slice(j, j + 1)
            before[i * GROUP + j] = state
            state = jnp.exp(now.dt[one] * rates) * state + (now.dt[one] * now.x[one]) * now.b[:, one]
        return state

    jax.lax.fori_loop(0, TOKENS // GROUP, again, starts[...])
    lanes = jax.lax.broadcasted_iota(jnp.int32, b.shape, 1)

    def back(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        g, to_a, to_b, to_c = carry
        at = TOKENS - (i + 1) * GROUP
        rows = pl.ds(pl.multiple_of(at, GROUP), GROUP)
        now, out = group(x, dt, b, c, at), d_y[rows, :]
        to_x, to_dt = [], []
        for j in reversed(range(GROUP)):
            one = slice(j, j + 1)
            x_j, dt_j, b_j = now.x[one], now.dt[one], now.b[:, one]
            decay, old = jnp.exp(dt_j * rates), before[at + j]
            added = dt_j * x_j
            g = g + now.c[:, one] * out[one]
            here = lanes == at + j
            to_c = jnp.where(here, jnp.sum((decay * old + added * b_j) * out[one], axis=1, keepdims=True), to_c)
            to_b = jnp.where(here, jnp.sum(g * added, axis=1, keepdims=True), to_b)
            g_added = jnp.sum(g * b_j, axis=0, keepdims=True)
            g = g * decay
            g_exponent = g * old
            to_a = to_a + g_exponent * dt_j
            to_x.append(g_added * dt_j)
            to_dt.append(jnp.sum(g_exponent * rates, axis=0, keepdims=True) + g_added * x_j)
        d_x[rows, :], d_dt[rows, :] = (jnp.concatenate(z[::-1], axis=0) for z in (to_x, to_dt))
        return g, to_a, to_b, to_c

    zeros = jnp.zeros(b.shape, jnp.float32)
    g, to_a, to_b, to_c = jax.lax.fori_loop(0, TOKENS // GROUP, back, (grad[...], jnp.zeros_like(rates), zeros, zeros))
    grad[...], d_a[...] = g, d_a[...] + to_a
    d_b[...], d_c[...] = to_b, to_c

    @pl.when(step == pl.num_programs(2) - 1)
    def end() -> None:
        d_first[...] = grad[...]
