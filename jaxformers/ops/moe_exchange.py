"""Experts on a mesh: each device sends its tokens to the devices that hold their experts, and gets the results back.

No token is dropped. Rows are sent in rounds of equal, fixed size: one round suffices when the load is nearly even, and
as many follow as the most loaded device needs. All devices know that number, and rounds that nobody needs are skipped.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.core.qtensor import QTensor
from jaxformers.core.sharding import axes_of, free_axes, mesh_and_rules, over_shards, spec
from jaxformers.ops.moe_forms import Ffn, Stacked, Weights
from jaxformers.ops.quantized_layout import check_cut, specs_of
from jaxformers.ops.summed import summed

Axes = tuple[str, ...]
Form = Callable[..., jax.Array]

SLACK = 1.25  # a round has room for this many times an even share of the rows


class Layout(NamedTuple):
    """How a mixture lies on the mesh."""

    tokens: PartitionSpec  # of x [...,D]
    weights: tuple[Stacked, ...]  # a PartitionSpec in the place of each array
    experts: Axes  # axes the experts are spread over, in `parts` parts
    parts: int
    sums: Axes  # axes over which the last product is a sum of parts
    all: Axes


def plan_layout(x: jax.Array, weights: Weights) -> Layout:
    """Where the rules put tokens and experts. Raises NotImplementedError without a mesh, or if nothing can be sent."""
    active = mesh_and_rules()
    if active is None or active[0].size == 1:
        raise NotImplementedError("there is no mesh of several devices")
    mesh, rules = active
    names = ("batch", "length")[: x.ndim - 1]
    tokens = spec((*names, None), x.shape, mesh, rules)
    over = {axis for entry in tokens for axis in axes_of(entry)}
    kernels = [spec(("expert", *w.axes), w.kernel.shape, mesh, rules) for w in weights]
    experts = axes_of(kernels[0][0])
    if over & set(experts) and not set(experts) <= over:
        raise NotImplementedError(f"tokens are spread over some of the experts' axes {experts} only")
    # Only the experts' hidden axis stays cut: their embeddings are gathered, as those of every layer are.
    hidden = {entry for w, k in zip(weights, kernels, strict=True) for entry in cut_along(w, k, "mlp")}
    inner = next(iter(hidden), None)
    if len(hidden) > 1 or over & set(axes_of(inner)):
        raise NotImplementedError("the experts' hidden axis is cut in several ways, or along with the tokens")
    parts = math.prod(mesh.shape[axis] for axis in experts)
    sums = axes_of(inner) if weights[-1].axes[0] == "mlp" else ()
    for kernel in (w.kernel for w in weights if isinstance(w.kernel, QTensor) and w.axes[0] == "mlp"):
        check_cut(kernel, math.prod(mesh.shape[axis] for axis in axes_of(inner)))
    places = tuple(place(w, experts, inner) for w in weights)
    return Layout(tokens, places, experts, parts, sums, tuple(free_axes(mesh)))


def cut_along(stacked: Stacked, placed: PartitionSpec, name: str) -> list:
    """What the axis of this name is cut along, if the kernel has one."""
    return [entry for axis, entry in zip(stacked.axes, placed[1:], strict=True) if axis == name]


def place(stacked: Stacked, experts: Axes, inner: str | Axes | None) -> Stacked:
    """Specs of a kernel and its bias."""
    rest = tuple(inner if axis == "mlp" else None for axis in stacked.axes)
    bias = None if stacked.bias is None else PartitionSpec(experts, rest[1])
    if isinstance(stacked.kernel, QTensor):
        return stacked.replace(kernel=specs_of(stacked.kernel, rest[1], rest[0], experts), bias=bias)
    return stacked.replace(kernel=PartitionSpec(experts, *rest), bias=bias)


def exchange(
    at: Layout, form: Form, x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, weights: Weights, experts: int
) -> jax.Array:
    """The mixture [...,D] over the mesh; `form` computes each device's rows. `ffn` must end with its last product."""
    across = {axis for entry in at.tokens for axis in axes_of(entry)}

    def local(x: jax.Array, index: jax.Array, scores: jax.Array, weights: Weights) -> jax.Array:
        shape, x = x.shape, x.reshape(-1, x.shape[-1])
        index, scores = (a.reshape(len(x), -1) for a in (index, scores))
        weights = tuple(once(w, at.sums) if w.axes[0] == "mlp" else w for w in weights)
        if at.parts == 1:
            y = form(x, index, scores, ffn, weights, experts=experts)
        elif set(at.experts) <= across:
            y = in_rounds(at, partial(form, ffn=ffn, experts=experts // at.parts), x, index, scores, weights)
        else:
            y = own_share(at, partial(form, ffn=ffn, experts=experts // at.parts), x, index, scores, weights)
        return summed(at.sums, y).reshape(shape)

    choices = PartitionSpec(*at.tokens[:-1], None)
    return over_shards(local, (at.tokens, choices, choices, at.weights), at.tokens)(x, index, scores, weights)


def once(stacked: Stacked, axes: Axes) -> Stacked:
    """Weights whose product is summed over `axes`, with the bias on one of the devices alone."""
    if stacked.bias is None or not axes:
        return stacked
    return stacked.replace(bias=jnp.where(jax.lax.axis_index(axes) == 0, stacked.bias, 0))


def own_share(at: Layout, form: Form, x: jax.Array, index: jax.Array, scores: jax.Array, weights: Weights) -> jax.Array:
    """Tokens that every device of the experts' axes has: each computes its own experts' part of the sum."""
    count = weights[0].kernel.shape[0]
    own = index - jax.lax.axis_index(at.experts) * count
    own = jnp.where((own >= 0) & (own < count), own, count)  # nobody's
    return summed(at.experts, form(x, own, scores, weights=weights))


def in_rounds(at: Layout, form: Form, x: jax.Array, index: jax.Array, scores: jax.Array, weights: Weights) -> jax.Array:
    """Tokens that each device has its own of: sent to the experts, and the results sent back."""
    rows, count = index.size, weights[0].kernel.shape[0]
    room = min(math.ceil(rows * SLACK / at.parts), rows)
    rounds = math.ceil(rows / room)
    table, needed = timetable(index.reshape(-1) // count, at, room, rounds)
    send = partial(one_round, at, form)
    total = send(table[0], x, index, scores, weights)
    if rounds == 1:
        return total.astype(x.dtype)

    def later(total: jax.Array, step: tuple) -> tuple[jax.Array, None]:
        n, ids = step
        # What a rare round needs for its gradient is computed again, or room would be kept for all rounds.
        run = jax.checkpoint(lambda total: total + send(ids, x, index, scores, weights))
        return jax.lax.cond(n < needed, run, lambda total: total, total), None

    total, _ = jax.lax.scan(later, total, (jnp.arange(1, rounds), table[1:]))
    return total.astype(x.dtype)


def timetable(ranks: jax.Array, at: Layout, room: int, rounds: int) -> tuple[jax.Array, jax.Array]:
    """Which of the choices [M] goes to which device in which round, Int [rounds,parts,room], M for none.

    ranks [M]: the device that holds each choice's expert. Also returns how many rounds the most loaded device needs.
    """
    # Counted and not sorted: TPUs' compiler takes seconds for each sort.
    chosen = jax.nn.one_hot(ranks, at.parts, dtype=jnp.int32)
    before = jnp.cumsum(chosen, axis=0) - chosen
    places, sizes = jnp.sum(before * chosen, axis=1), chosen.sum(axis=0)
    table = jnp.full((at.parts, rounds * room), ranks.size)
    table = table.at[ranks, places].set(jnp.arange(ranks.size), unique_indices=True)
    needed = jax.lax.pmax(-(-jnp.max(sizes) // room), at.all)
    return table.reshape(at.parts, rounds, room).swapaxes(0, 1), needed


def one_round(at: Layout, form: Form, ids: jax.Array, x, index, scores, weights: Weights) -> jax.Array:
    """Send the rows of the choices `ids` [parts,room], compute those that came, and add up what returns, float32."""
    count, top_k = weights[0].kernel.shape[0], index.shape[1]
    tokens = ids // top_k  # those of no choice lie beyond the last token
    owners = (index % count).reshape(-1).at[ids].get(mode="fill", fill_value=count)
    rows = x.at[tokens].get(mode="fill", fill_value=0)
    trade = partial(jax.lax.all_to_all, axis_name=at.experts, split_axis=0, concat_axis=0, tiled=True)
    rows, owners = trade(rows).reshape(-1, x.shape[-1]), trade(owners).reshape(-1, 1)
    y = form(rows, owners, jnp.ones(owners.shape, jnp.float32), weights=weights)
    y = trade(y.reshape(*ids.shape, -1)).astype(jnp.float32)
    shares = scores.reshape(-1).at[ids].get(mode="fill", fill_value=0).astype(jnp.float32)
    return jnp.zeros((len(x), y.shape[-1]), jnp.float32).at[tokens].add(y * shares[..., None], mode="drop")
