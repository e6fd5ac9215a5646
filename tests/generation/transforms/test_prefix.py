"""Tokens allowed by the caller's function equal transformers', in compiled loops as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers.generation import logits_process as theirs

from jaxformers.core.errors import ConfigError
from jaxformers.generation import transforms as ours
from tests.generation.transforms.side_by_side import (
    VOCABULARY,
    random_scores,
    random_tokens,
    run,
    same,
    seen_of,
    torched,
)


def allowed(row, tokens):
    """Depends on the input, on the length and on the last token."""
    return [(row * 7 + int(tokens[-1]) + step * len(tokens)) % VOCABULARY for step in range(5)]


@pytest.mark.parametrize("beams", [1, 3])
def test_prefix_constrained(beams):
    processor = theirs.PrefixConstrainedLogitsProcessor(allowed, beams)
    transform = ours.prefix_constrained(allowed, beams)
    for length in (1, 2, 9):
        tokens, scores = random_tokens(6, length, length), random_scores(6, length)
        scores[:beams] = -np.inf  # all beams of the first input are impossible
        scores[5, :35] = -np.inf
        same(run(transform, scores, seen_of(tokens, 1, junk=length)), torched(processor, scores, tokens))


def test_rows_of_a_bucket_are_not_asked_about():
    asked = set()

    def only_two(row, tokens):
        asked.add(row)
        return [3]

    scores = random_scores(4)
    got = run(ours.prefix_constrained(only_two, rows=2), scores, seen_of(random_tokens(4, 3), 1))
    assert asked == {0, 1}
    np.testing.assert_array_equal(got[2:], scores[2:])
    assert np.isfinite(got[:2]).sum() == 2


def test_works_in_a_loop():
    """Counting up by 3 is all that is allowed, so that is what greedy writing writes."""
    transform = ours.prefix_constrained(lambda row, tokens: [(int(tokens[-1]) + 3) % VOCABULARY])
    seen = seen_of(np.array([[0], [7]]), 1)

    def step(_, seen):
        token = jnp.argmax(transform(jnp.zeros((2, VOCABULARY)), seen), -1).astype(jnp.int32)
        tokens = jax.lax.dynamic_update_slice(seen.tokens, token[:, None], (0, seen.end))
        return seen.replace(tokens=tokens, end=seen.end + 1)

    seen = jax.jit(lambda seen: jax.lax.fori_loop(0, 4, step, seen))(seen)
    assert seen.tokens[:, 3:8].tolist() == [[0, 3, 6, 9, 12], [7, 10, 13, 16, 19]]


def test_an_empty_list_is_an_error_that_says_so():
    scores, seen = random_scores(2), seen_of(random_tokens(2, 3), 1)
    with pytest.raises(Exception, match="allowed no token for input 0"):
        jax.block_until_ready(run(ours.prefix_constrained(lambda row, tokens: []), scores, seen))
    with pytest.raises(ConfigError, match="function"):
        ours.prefix_constrained([1, 2])
