"""Temperature, top-k, top-p, min-p, top-H and the cut-offs keep the tokens that transformers keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers.generation import logits_process as theirs

from jaxformers.core.errors import ConfigError
from jaxformers.generation import transforms as ours
from tests.generation.transforms.side_by_side import agree, random_scores, run, same, seen_of, torched

KINDS = ("plain", "ties", "impossible")
THREE, FIVE = {"min_tokens_to_keep": 3}, {"min_tokens_to_keep": 5}
WARPS = {
    "temperature": (lambda v: ours.temperature(v), lambda v: theirs.TemperatureLogitsWarper(v), (0.3, 0.7, 1.5)),
    "top_k": (lambda v: ours.top_k(v), lambda v: theirs.TopKLogitsWarper(v), (1, 5, 99)),
    "top_k_keep": (lambda v: ours.top_k(v, 3), lambda v: theirs.TopKLogitsWarper(v, min_tokens_to_keep=3), (1, 7)),
    "top_p": (lambda v: ours.top_p(v), lambda v: theirs.TopPLogitsWarper(v), (0.0, 0.1, 0.8, 0.95, 1.0)),
    "top_p_keep": (lambda v: ours.top_p(v, 4), lambda v: theirs.TopPLogitsWarper(v, min_tokens_to_keep=4), (0.0, 0.5)),
    "min_p": (lambda v: ours.min_p(v), lambda v: theirs.MinPLogitsWarper(v), (0.0, 0.05, 0.3, 1.0)),
    "min_p_keep": (lambda v: ours.min_p(v, 3), lambda v: theirs.MinPLogitsWarper(v, min_tokens_to_keep=3), (0.3, 0.9)),
    "top_h": (lambda v: ours.top_h(v), lambda v: theirs.TopHLogitsWarper(v), (0.1, 0.4, 0.9)),
    "typical": (lambda v: ours.typical(v), lambda v: theirs.TypicalLogitsWarper(v), (0.05, 0.2, 0.9, 0.99)),
    "typical_keep": (lambda v: ours.typical(v, 5), lambda v: theirs.TypicalLogitsWarper(v, **FIVE), (0.05,)),
    "epsilon": (lambda v: ours.epsilon_cutoff(v), lambda v: theirs.EpsilonLogitsWarper(v), (1e-4, 0.01, 0.9)),
    "epsilon_keep": (lambda v: ours.epsilon_cutoff(v, 3), lambda v: theirs.EpsilonLogitsWarper(v, **THREE), (0.9,)),
    "eta": (lambda v: ours.eta_cutoff(v), lambda v: theirs.EtaLogitsWarper(v), (1e-3, 0.1, 0.9)),
    "eta_keep": (lambda v: ours.eta_cutoff(v, 3), lambda v: theirs.EtaLogitsWarper(v, **THREE), (0.9,)),
}  # fmt: skip


@pytest.mark.parametrize("name", WARPS)
def test_equals_transformers(name):
    make, make_theirs, values = WARPS[name]
    for value in values:
        agree(make(value), lambda _, value=value: make_theirs(value), kinds=KINDS, lengths=(4, 5))


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p", "top_h", "eta"])
def test_equals_transformers_on_a_large_vocabulary(name):
    make, make_theirs, _ = WARPS[name]
    value = 50 if name == "top_k" else 0.9
    scores, tokens = random_scores(2, vocabulary=151_936), np.zeros((2, 4), int)
    got, want = run(make(value), scores, seen_of(tokens, 4)), torched(make_theirs(value), scores, tokens)
    survivors = np.isfinite(want).sum()
    assert 0 < survivors < want.size
    same(got, want)


def test_typical_on_a_large_vocabulary_is_as_close_to_exact_as_transformers():
    """Thousands of tokens lie near the bound, and torch's float32 entropy is wrong in the fifth digit."""
    scores, tokens = random_scores(2, vocabulary=151_936), np.zeros((2, 4), int)
    processor = theirs.TypicalLogitsWarper(0.9)
    exact = np.isfinite(torched(processor, scores.astype(np.float64), tokens))
    got = np.isfinite(run(ours.typical(0.9), scores, seen_of(tokens, 4))) != exact
    want = np.isfinite(torched(processor, scores, tokens)) != exact
    assert got.sum() <= want.sum() <= 20 < exact.sum()


@pytest.mark.parametrize("share", [0.05, 0.26, 0.5, 0.99])
def test_of_equal_tokens_top_p_keeps_the_first(share):
    """32 equal tokens: a power of two, so that every sum is exact."""
    scores, tokens = np.zeros((1, 32), np.float32), np.zeros((1, 2), int)
    got = run(ours.top_p(share), scores, seen_of(tokens, 2))
    kept = np.isfinite(torched(theirs.TopPLogitsWarper(share), scores, tokens)).sum()
    assert np.isfinite(got)[0].tolist() == [True] * kept + [False] * (32 - kept)


def test_numbers_do_not_recompile_and_map_over():
    traces = []

    @jax.jit
    def apply(transform, scores, seen):
        traces.append(1)
        return transform(scores, seen)

    scores, seen = jnp.asarray(random_scores(2)), seen_of(np.zeros((2, 4), int), 4)
    for value in (0.2, 0.5, 0.9):
        for make in (ours.temperature, ours.min_p, ours.eta_cutoff):
            apply(make(value), scores, seen)
    assert len(traces) == 3

    def at(value):
        return ours.top_p(value)(ours.temperature(value)(scores, seen), seen)

    values = jnp.asarray([0.3, 0.8])
    for got, value in zip(jax.jit(jax.vmap(at))(values), values, strict=True):
        np.testing.assert_allclose(got, jax.jit(at)(value), rtol=1e-6)


REFUSED = {
    "temperature": [0.0, -1.0, "warm", float("nan"), True],
    "top_k": [0, -3, 1.5, None],
    "top_p": [-0.1, 1.1],
    "min_p": [-0.1, 1.1],
    "top_h": [0.0, 1.1],
    "typical": [0.0, 1.0],
    "epsilon_cutoff": [0.0, 1.0],
    "eta_cutoff": [0.0, 1.0],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_makes_no_sense(name):
    for value in REFUSED[name]:
        with pytest.raises(ConfigError, match="has to be"):
            getattr(ours, name)(value)
    if name not in ("temperature", "top_h"):
        with pytest.raises(ConfigError, match="min_tokens_to_keep"):
            getattr(ours, name)(5 if name == "top_k" else 0.5, min_tokens_to_keep=0)


def test_a_size_may_not_be_traced():
    with pytest.raises(ConfigError, match="size"):
        jax.jit(lambda k: ours.top_k(k).top_k)(3)
