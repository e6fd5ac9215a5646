"""Sampling: the distribution is the softmax of the transformed scores, and a key decides it whatever the hardware."""

from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

import jaxformers as jf
from jaxformers.core.sharding import FSDP_TENSOR
from tests.hub import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama's checkpoint."""
    path = tmp_path_factory.mktemp("llama")
    tiny.llama(path, num_hidden_layers=2)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> jf.Model:
    """The model on one device."""
    return jf.AutoModelForCausalLM.from_pretrained(folder)


PROMPT = np.array([[5, 17, 30, 8]])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6, "top_k": 20}, {"top_k": 0, "top_p": 0.8}])
def test_distribution(model: jf.Model, options: dict) -> None:
    """Chi-square of 4096 first tokens against the exact probabilities."""
    options = {"top_k": 0, **options}
    out = model.generate(
        PROMPT,
        do_sample=True,
        key=jax.random.key(3),
        max_new_tokens=1,
        num_return_sequences=4096,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    probabilities = np.asarray(jax.nn.softmax(out.scores[0][0]), np.float64)
    counts = np.bincount(np.asarray(out.sequences)[:, -1], minlength=len(probabilities))
    assert counts[probabilities == 0].sum() == 0
    expected = probabilities / probabilities.sum() * counts.sum()
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    keep = wanted > 0
    assert fit(observed[keep], wanted[keep]) > 1e-4
    # The same counts do not fit half the temperature's distribution: the check can fail.
    other = np.asarray(jax.nn.softmax(out.scores[0][0] * 2.0), np.float64) * counts.sum()
    assert fit(observed[keep], np.append(other[common], other[~common].sum())[keep]) < 1e-4


def fit(observed: np.ndarray, expected: np.ndarray) -> float:
    """How likely counts are that fit no better than these, by chi-square."""
    return float(stats.chisquare(observed, expected * (observed.sum() / expected.sum())).pvalue)


def test_steps_draw_anew_and_keys_decide(model: jf.Model) -> None:
    def write(seed: int, **options) -> np.ndarray:
        given = {"max_new_tokens": 12, **options}
        return np.asarray(model.generate(PROMPT, do_sample=True, key=jax.random.key(seed), temperature=3.0, **given))

    assert (write(0) == write(0)).all() and (write(0) != write(1)).any()
    assert len(set(write(0)[0, 4:])) > 3
    # Neither the chunks in which the host looks nor further rows change what a row draws.
    assert (write(0, max_time=100.0) == write(0)).all()
    assert (write(0, num_return_sequences=3)[0] == write(0)[0]).all()


@pytest.mark.parametrize("axes", [{"fsdp": 2, "tensor": 4}, pytest.param({"fsdp": 8}, marks=pytest.mark.slow)])
def test_one_and_eight_devices_write_the_same(folder: Path, model: jf.Model, axes: dict) -> None:
    mesh = jf.make_mesh(**axes)
    sharded = jf.AutoModelForCausalLM.from_pretrained(folder, mesh=mesh, rules=FSDP_TENSOR)
    assert len(jax.tree.leaves(sharded.params)[0].sharding.device_set) == 8
    ids = np.random.RandomState(0).randint(3, 96, (4, 6))
    for options in ({}, {"do_sample": True, "key": jax.random.key(5), "temperature": 2.0}):
        one = model.generate(ids, max_new_tokens=10, **options)
        np.testing.assert_array_equal(one, sharded.generate(ids, max_new_tokens=10, **options))
