"""Learning rates: transformers' values at every step, optax's schedules by name, and plateaus as PyTorch finds them."""

import jax
import numpy as np
import optax
import pytest
import torch
from transformers import get_scheduler

import jaxformers as jf
from jaxformers.core.errors import ConfigError
from jaxformers.training.plateau import ReduceOnPlateau
from jaxformers.training.schedules import optax_names

PEAK, STEPS = 3e-4, 57
CASES = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.3}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}),
    ("polynomial", {"lr_end": 1e-5, "power": 2.0}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 20}),
    ("cosine_with_min_lr", {"min_lr": 5e-5}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.2, "num_cycles": 0.7}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-5, "warmup_lr_rate": 0.3}),
    ("warmup_stable_decay", {"num_decay_steps": 20}),
    (
        "warmup_stable_decay",
        {"num_decay_steps": 15, "num_stable_steps": 9, "decay_type": "linear", "min_lr_ratio": 0.1},
    ),
    ("warmup_stable_decay", {"num_decay_steps": 15, "warmup_type": "cosine", "decay_type": "1-sqrt"}),
    ("warmup_stable_decay", {"num_decay_steps": 15, "warmup_type": "1-sqrt", "num_cycles": 0.8}),
]


def theirs(name: str, warmup: int, options: dict, count: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(name, optimizer, warmup, STEPS, scheduler_specific_kwargs=dict(options))
    out = []
    for _ in range(count):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda x: x if isinstance(x, str) else ",".join(x) or "plain")
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_follows_transformers(name: str, options: dict, warmup: int) -> None:
    rate = jf.schedule(name, PEAK, steps=STEPS, warmup_steps=warmup, **options)
    wanted = theirs(name, warmup, options, STEPS + 6)  # and beyond the end
    found = jax.vmap(rate)(np.arange(STEPS + 6))
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=PEAK * 2e-7)
    assert float(rate(3)) == pytest.approx(wanted[3], rel=2e-6, abs=PEAK * 2e-7)  # a plain number will do


def test_every_name_of_transformers_is_known_or_refused() -> None:
    from transformers.trainer_utils import SchedulerType

    known = {name for name, _ in CASES} | {"reduce_lr_on_plateau"}
    for kind in SchedulerType:
        if kind.value not in known:
            assert kind.value == "greedy"
            with pytest.raises(ConfigError, match="no schedule is called 'greedy'; there are linear"):
                jf.schedule(kind, PEAK, steps=STEPS)
    assert float(jf.schedule(SchedulerType.LINEAR, PEAK, steps=10)(5)) == pytest.approx(PEAK / 2)


OPTAX = {
    "constant_schedule": {},
    "cosine_decay_schedule": {},
    "cosine_onecycle_schedule": {},
    "exponential_decay": {"decay_rate": 0.5},
    "linear_onecycle_schedule": {},
    "linear_schedule": {"end_value": 0.0},
    "piecewise_constant_schedule": {"boundaries_and_scales": {20: 0.1}},
    "piecewise_interpolate_schedule": {"interpolate_type": "linear", "boundaries_and_scales": {20: 0.1}},
    "polynomial_schedule": {"end_value": 0.0, "power": 2},
    "sgdr_schedule": {
        "cosine_kwargs": [dict(init_value=0.0, peak_value=PEAK, warmup_steps=5, decay_steps=20, end_value=0.0)]
    },
    "warmup_constant_schedule": {},
    "warmup_cosine_decay_schedule": {},
    "warmup_exponential_decay_schedule": {"decay_rate": 0.5},
}


def test_every_schedule_of_optax() -> None:
    assert set(OPTAX) == set(optax_names())
    for name, options in OPTAX.items():
        rates = [float(jf.schedule(name, PEAK, steps=STEPS, warmup_steps=5, **options)(n)) for n in (0, 5, 30)]
        assert max(rates) <= PEAK * 1.0001 and max(rates) > 0, name
    found = jf.schedule("warmup_cosine_decay", PEAK, steps=STEPS, warmup_steps=5, end_value=1e-6)
    same = optax.warmup_cosine_decay_schedule(0.0, PEAK, 5, STEPS, 1e-6)
    assert [float(found(n)) for n in range(60)] == [float(same(n)) for n in range(60)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linaer", {"steps": 5}, "no schedule is called 'linaer'; there are linear, cosine"),
        ("linear", {}, "ends with the run: pass steps="),
        ("linear", {"steps": 5, "num_cycles": 2}, "unexpected keyword argument 'num_cycles'; it takes warmup, steps"),
        ("cosine_with_min_lr", {"steps": 5}, "needs min_lr or min_lr_rate, and not both"),
        ("polynomial", {"steps": 5, "lr_end": 1.0}, "must be below the learning rate"),
        ("warmup_stable_decay", {"steps": 5, "num_decay_steps": 2, "decay_type": "exp"}, "found 'exp'"),
        ("exponential_decay", {"steps": 5}, "missing a required argument: 'decay_rate'; it takes init_value"),
        ("reduce_lr_on_plateau", {"patience_": 5}, "unexpected keyword argument 'patience_'"),
        ("reduce_lr_on_plateau", {"factor": 1.5}, "factor must lie between 0 and 1, found 1.5"),
    ],
)
def test_errors(name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jf.schedule(name, PEAK, **options)(0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patience": 1, "factor": 0.5},
        {"mode": "max", "patience": 0, "cooldown": 2, "factor": 0.3},
        {"patience": 1, "threshold": 0.2, "threshold_mode": "abs", "min_lr": 1e-4},
        {"mode": "max", "patience": 1, "threshold": 0.1, "threshold_mode": "abs", "eps": 1e-4},
    ],
)
def test_plateau_decides_as_torch(options: dict) -> None:
    draw = np.random.RandomState(3)
    metrics = [*(2.0 / (n + 1) + 0.1 * draw.rand() for n in range(15)), float("nan"), *(0.1 + draw.rand(20) * 0.1)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    plateau = jf.schedule("reduce_lr_on_plateau", PEAK, **options)
    assert isinstance(plateau, ReduceOnPlateau)
    for n, metric in enumerate(metrics):
        scheduler.step(metric)
        if n == 9:  # through JSON, as a checkpoint does
            state = plateau.state()
            plateau = ReduceOnPlateau(PEAK, **options)
            plateau.restore(state)
        assert plateau.update(metric) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
