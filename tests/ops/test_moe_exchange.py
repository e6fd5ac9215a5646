"""Experts spread over virtual devices: the dense form's values and gradients, and no token lost however they choose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import EXPERT, FSDP, TENSOR, Rules, use_mesh
from jaxformers.ops import moe as choosing
from jaxformers.ops.moe import moe
from jaxformers.ops.moe_exchange import plan_layout
from jaxformers.ops.moe_forms import Stacked, dense

B, T, D, F, E, K = 8, 6, 8, 16, 8, 2
RNG = np.random.RandomState(0)
X = RNG.randn(B, T, D).astype(np.float32)
SCORES = RNG.rand(B, T, K).astype(np.float32)
EVEN = np.stack([RNG.permutation(E)[:K] for _ in range(B * T)]).reshape(B, T, K)
CROWDED = np.broadcast_to(np.array([5, 4]), (B, T, K))  # all tokens on two experts of one device
TARGET = RNG.randn(B, T, D).astype(np.float32)
WEIGHTS = (
    Stacked(RNG.randn(E, D, F).astype(np.float32), RNG.randn(E, F).astype(np.float32), ("embed", "mlp")),
    Stacked(RNG.randn(E, F, D).astype(np.float32), RNG.randn(E, D).astype(np.float32), ("mlp", "embed")),
)

# name: (mesh, rules, choices, collective)
CASES: dict[str, tuple[dict[str, int], Rules, np.ndarray, str]] = {
    "experts alone": (dict(expert=8), EXPERT, EVEN, "all-to-all"),
    "all on one device": (dict(data=2, expert=4), EXPERT, CROWDED, "all-to-all"),
    "with fsdp and tensor": (dict(fsdp=2, expert=2, tensor=2), EXPERT, EVEN, "all-to-all"),
    "crowded, with tensor": (dict(expert=4, tensor=2), EXPERT, CROWDED, "all-to-all"),
    "with a cut length": (dict(data=2, sequence=2, expert=2), (*EXPERT, ("length", "sequence")), EVEN, "all-to-all"),
    "tokens on every device": (dict(expert=4, tensor=2), (*EXPERT, ("batch", None)), EVEN, "all-reduce"),
    "experts on every device": (dict(fsdp=4, tensor=2), TENSOR, EVEN, "all-reduce"),
}


def ffn(rows, product, weights):
    up, down = weights
    return product(jnp.tanh(product(rows, up)), down)


def loss(way, index, given):
    x, scores, weights = given
    out = way(x, index, scores, ffn, weights, experts=E)
    return (out * TARGET).sum(), out


QUICK = ("with fsdp and tensor", "crowded, with tensor", "tokens on every device")
GROUPED = ("all on one device", "tokens on every device", "experts on every device")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_same_values_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device computes its rows densely, or sorted into groups."""
    axes, rules, index, collective = CASES[name]
    if name in GROUPED:
        monkeypatch.setattr(choosing, "FEW_NUMBERS", 0)
    given = (X, SCORES, WEIGHTS)
    want, wanted = jax.jit(jax.value_and_grad(lambda a: loss(dense, index, a), has_aux=True))(given)
    with use_mesh(make_mesh(**axes), rules):
        step = jax.jit(jax.value_and_grad(lambda a: loss(moe, index, a), has_aux=True)).lower(given).compile()
    got, found = step(given)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)
    assert collective in step.as_text()


def test_the_rules_choose() -> None:
    with use_mesh(make_mesh(expert=4, tensor=2), EXPERT):
        at = plan_layout(X, WEIGHTS)
        assert at.experts == ("expert",) and at.parts == 4 and at.sums == ("tensor",)
        assert at.tokens == jax.P("expert", None, None)
        assert at.weights[0].kernel == jax.P("expert", None, "tensor")
    with use_mesh(make_mesh(fsdp=8), FSDP):
        assert plan_layout(X, WEIGHTS).parts == 1
    with pytest.raises(NotImplementedError, match="no mesh"):
        plan_layout(X, WEIGHTS)


def test_rounds_that_nobody_needs_are_skipped() -> None:
    """An even load takes one round, the worst one as many as it needs."""
    from jaxformers.ops.moe_exchange import timetable

    with use_mesh(make_mesh(expert=4, devices=jax.devices()[:4]), EXPERT):
        at = plan_layout(X, WEIGHTS)

    def rounds(ranks: list[int]) -> int:
        spread = jax.shard_map(
            lambda r: timetable(r, at, 2, 4)[1][None], mesh=make_mesh(expert=4, devices=jax.devices()[:4]),
            in_specs=jax.P(None), out_specs=jax.P("expert"), check_vma=False,
        )  # fmt: skip
        return int(spread(jnp.array(ranks))[0])

    assert rounds([0, 1, 2, 3, 0, 1, 2, 3]) == 1
    assert rounds([0, 0, 0, 3, 0, 1, 2, 3]) == 2
    assert rounds([1] * 8) == 4
