"""The recurrences' TPU kernels against float64, interpreted: values, gradients, odd sizes, meshes, refusals."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding

import jaxformers as jf
from jaxformers.core.sharding import spec, use_mesh
from jaxformers.kernels.recurrence import dual_tpu, selective_tpu
from jaxformers.ops.dispatch import use, watch_calls
from jaxformers.ops.recurrence import dual_chunks, selective_chunks, selective_scan, state_space_dual

Arrays = tuple[np.ndarray, ...]
NARROW = selective_tpu.Settings(states_held=1024, interpret=True)  # several blocks of channels


def draw(rng: np.random.RandomState, *shape: int) -> np.ndarray:
    return rng.randn(*shape).astype(np.float32)


def selective_problem(batch: int, length: int, width: int, states: int) -> Arrays:
    """x, dt, a, b, c and a first state."""
    rng = np.random.RandomState(length + width)
    x, dt, a = draw(rng, batch, length, width), np.abs(draw(rng, batch, length, width)), draw(rng, width, states)
    b, c = draw(rng, batch, length, states), draw(rng, batch, length, states)
    return x, 0.3 * dt, -np.abs(a), b, c, draw(rng, batch, width, states)


def dual_problem(batch: int, length: int, heads: int, groups: int, dim: int, states: int) -> Arrays:
    """The same for heads."""
    rng = np.random.RandomState(length + heads)
    x, dt, a = draw(rng, batch, length, heads, dim), np.abs(draw(rng, batch, length, heads)), draw(rng, heads)
    b, c = draw(rng, batch, length, groups, states), draw(rng, batch, length, groups, states)
    return x, 0.3 * dt, -np.abs(a), b, c, draw(rng, batch, heads, dim, states)


def selective_truth(x, dt, a, b, c, h) -> tuple[torch.Tensor, torch.Tensor]:
    """Token after token."""
    y = []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * a) * h + (dt * x)[:, t, :, None] * b[:, t, None]
        y.append((h * c[:, t, None]).sum(-1))
    return torch.stack(y, 1), h


def dual_truth(x, dt, a, b, c, h) -> tuple[torch.Tensor, torch.Tensor]:
    """Token after token."""
    b, c = (z.repeat_interleave(x.shape[2] // z.shape[2], 2) for z in (b, c))
    y = []
    for t in range(x.shape[1]):
        added = (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]
        h = torch.exp(dt[:, t] * a)[..., None, None] * h + added
        y.append((h * c[:, t, :, None]).sum(-1))
    return torch.stack(y, 1), h


def truth(scan: Callable, given: Arrays, grads: Arrays) -> list[np.ndarray]:
    """y, the last state and all gradients, in float64."""
    inputs = [torch.tensor(z, dtype=torch.float64, requires_grad=True) for z in given]
    outputs = scan(*inputs)
    torch.autograd.backward(outputs, [torch.tensor(z, dtype=torch.float64) for z in grads])
    return [z.detach().numpy() for z in outputs] + [z.grad.numpy() for z in inputs]


def computed(scan: Callable, given: Arrays, grads: Arrays) -> list[np.ndarray]:
    """The same by a function of ours."""
    outputs, back = jax.vjp(scan, *given)
    return [np.asarray(z) for z in (*outputs, *back(grads))]


def errors(found: list[np.ndarray], expected: list[np.ndarray]) -> list[float]:
    """The largest error of each array, in units of its largest value."""
    pairs = zip(found, expected, strict=True)
    return [float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in pairs]


def typical(found: list[np.ndarray], expected: list[np.ndarray]) -> list[float]:
    """The root mean square error of each array, in units of its values'."""
    pairs = zip(found, expected, strict=True)
    return [float(np.sqrt(np.square(a - b).mean() / np.square(b).mean())) for a, b in pairs]


def grads_for(given: Arrays) -> Arrays:
    """Gradients of the outputs: y is like x, the last state like the first."""
    rng = np.random.RandomState(9)
    return draw(rng, *given[0].shape), draw(rng, *given[-1].shape)


def test_selective() -> None:
    """Two blocks of tokens and two of channels, none of them full."""
    given = selective_problem(2, 150, 200, 5)
    grads = grads_for(given)
    ours = computed(lambda *z: selective_tpu.selective_scan(*z, NARROW), given, grads)
    expected = truth(selective_truth, given, grads)
    assert max(errors(ours, expected)) < 2e-6, errors(ours, expected)
    plain = typical(computed(lambda *z: selective_chunks(*z), given, grads), expected)
    pairs = zip(typical(ours, expected), plain, strict=True)
    assert all(a < 1.3 * b + 1e-7 for a, b in pairs), (typical(ours, expected), plain)


@pytest.mark.parametrize("shape", [(2, 150, 4, 2, 8, 16), (1, 256, 3, 1, 12, 20)])
def test_dual(shape: tuple[int, ...]) -> None:
    """With groups of heads; and no worse than plain JAX."""
    given = dual_problem(*shape)
    grads = grads_for(given)
    expected = truth(dual_truth, given, grads)
    settings = dual_tpu.Settings(interpret=True)
    kernel = computed(lambda *z: dual_tpu.state_space_dual(*z, settings), given, grads)
    assert max(errors(kernel, expected)) < 1e-5, errors(kernel, expected)
    plain = typical(computed(lambda *z: dual_chunks(*z, size=dual_tpu.TOKENS), given, grads), expected)
    pairs = zip(typical(kernel, expected), plain, strict=True)
    assert all(a < 1.3 * b + 1e-7 for a, b in pairs), (typical(kernel, expected), plain)


def test_long_steps_forget_everything() -> None:
    """Decays that underflow give no NaN, nor do their gradients."""
    x, dt, a, b, c, h = selective_problem(1, 20, 8, 4)
    found = computed(lambda *z: selective_tpu.selective_scan(*z, NARROW), (x, dt * 1e4, a, b, c, h), (x, h))
    assert all(np.isfinite(z).all() for z in found)
    x, dt, a, b, c, h = dual_problem(1, 20, 2, 1, 4, 8)
    settings = dual_tpu.Settings(interpret=True)
    given = x, dt * 1e4, a, b, c, h
    found = computed(lambda *z: dual_tpu.state_space_dual(*z, settings), given, (x, h))
    assert all(np.isfinite(z).all() for z in found)


@pytest.mark.slow
def test_no_races() -> None:
    """Blocks that are written more than once are not written by two steps at the same time."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    watched = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)
    settings = dual_tpu.Settings(interpret=watched)
    given = dual_problem(1, 130, 2, 1, 8, 8)
    plain = dual_tpu.state_space_dual(*given, dual_tpu.Settings(interpret=True))
    raced = jax.jit(lambda *z: dual_tpu.state_space_dual(*z, settings))(*given)
    for a, b in zip(plain, raced, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not interpret_pallas_call.races.races_found


def test_on_a_mesh() -> None:
    """Rows and channels on their own devices: values and gradients of one device."""
    mesh = jf.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    selective, dual = selective_problem(2, 20, 8, 4), dual_problem(2, 20, 4, 1, 4, 8)
    names = (("batch", None, "mlp"), ("batch", None, "mlp", None))
    for given, name, op, plain in (
        (selective, names[0], lambda *z: selective_scan(*z), selective_chunks),
        (dual, names[1], lambda *z: state_space_dual(*z, size=16), lambda *z: dual_chunks(*z, size=16)),
    ):
        grads = grads_for(given)
        expected = computed(plain, given, grads)
        place = NamedSharding(mesh, spec(name, given[0].shape, mesh, jf.FSDP_TENSOR))
        placed = (jax.device_put(given[0], place), *given[1:])
        with use_mesh(mesh, jf.FSDP_TENSOR), use(selective_scan="selective_tpu", state_space_dual="dual_tpu"):
            outputs, back = jax.vjp(jax.jit(op), *placed)
        assert outputs[0].sharding.is_equivalent_to(place, outputs[0].ndim)
        found = [np.asarray(z) for z in (*outputs, *back(grads))]
        assert max(errors(found, expected)) < 1e-5


def test_refusals_fall_through() -> None:
    """A few tokens go step by step; states that fast memory cannot hold are computed in plain JAX."""
    with use(selective_scan=("selective_tpu", "chunked", "reference")), watch_calls() as calls:
        selective_scan(*selective_problem(1, 4, 8, 4))
    assert calls[0].chosen == "reference" and "step by step" in calls[0].refused["selective_tpu"]
    many = jax.eval_shape(lambda: tuple(jnp.zeros(z.shape) for z in dual_problem(1, 16, 256, 1, 64, 128)))
    with use(state_space_dual=("dual_tpu", "chunked")), watch_calls() as calls:
        jax.eval_shape(lambda *z: state_space_dual(*z, size=16), *many)
    assert calls[0].chosen == "chunked" and "bytes of states" in calls[0].refused["dual_tpu"]


@pytest.mark.parametrize(("kind", "op"), [("mamba", "selective_scan"), ("mamba2", "state_space_dual")])
def test_models_compute_the_same_with_the_kernel(kind: str, op: str) -> None:
    """A whole model, its cache handed on, and the gradient of its loss."""
    sizes = dict(vocab_size=32, hidden_size=16, num_hidden_layers=2, state_size=8)
    more = dict(head_dim=8, num_heads=4, n_groups=2) if kind == "mamba2" else {}
    model = jf.Model.init(jf.AutoConfig.for_model(kind, **sizes, **more), jax.random.key(0), task="CausalLM", scan=True)
    ids = np.random.RandomState(0).randint(1, 32, (2, 12))

    def computed_by(kernel: str):
        @jax.jit
        def run(params):
            def loss(params):
                out = model.module.apply({"params": params}, input_ids=ids, past_key_values=model.init_cache(2, 16))
                return jnp.square(out.logits).mean() + sum(z.sum() for z in jax.tree.leaves(out.past_key_values.layers))

            return jax.value_and_grad(loss)(params)

        with use(**{op: kernel}):
            return run(model.params)

    found, expected = computed_by("selective_tpu" if kind == "mamba" else "dual_tpu"), computed_by("chunked")
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
