"""Chains of transforms in any order and number: what must hold whatever they are."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from jaxformers.generation import transforms as ours
from jaxformers.generation.transform import chain
from tests.generation.transforms.side_by_side import compiled, random_scores, random_tokens, run, same, seen_of, torched

# Pairs of a transform and its processor for a prompt of 4 tokens. None may have a bound that rounding can cross.
PAIRS = {
    "temperature": (ours.temperature(0.8), theirs.TemperatureLogitsWarper(0.8)),
    "top_k": (ours.top_k(12), theirs.TopKLogitsWarper(12)),
    "top_p": (ours.top_p(0.83, 2), theirs.TopPLogitsWarper(0.83, min_tokens_to_keep=2)),
    "min_p": (ours.min_p(0.013), theirs.MinPLogitsWarper(0.013)),
    "repetition": (ours.repetition_penalty(1.21), theirs.RepetitionPenaltyLogitsProcessor(1.21)),
    "ngram": (ours.no_repeat_ngram(2), theirs.NoRepeatNGramLogitsProcessor(2)),
    "words": (ours.bad_words([[3], [6, 9]]), theirs.NoBadWordsLogitsProcessor([[3], [6, 9]])),
    "length": (ours.min_length(8, [2]), theirs.MinLengthLogitsProcessor(8, [2])),
    "suppress": (ours.suppress_tokens([1, 5]), theirs.SuppressTokensLogitsProcessor([1, 5])),
    "renormalize": (ours.renormalize_logits(), theirs.LogitNormalization()),
}
FIXED = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


@FIXED
@given(st.lists(st.sampled_from(sorted(PAIRS)), max_size=4), st.integers(4, 20), SEEDS)
def test_chains_equal_transformers_in_any_order(names, length, seed):
    mine, yours = (
        compiled(PAIRS[name][0] for name in names),
        theirs.LogitsProcessorList(PAIRS[name][1] for name in names),
    )
    tokens, scores = random_tokens(2, length, seed), random_scores(2, seed)
    got = mine(jnp.asarray(scores), seen_of(tokens, 4, junk=seed))
    same(got, torched(yours, scores, tokens), rtol=2e-6)


def test_no_two_transforms_have_the_same_structure():
    """jit finds programs by structure, and transforms with equal fields are common."""
    made = [one for one, _ in PAIRS.values()]
    made += [
        ours.min_length(8, [2]),
        ours.min_new_tokens(8, [2]),
        ours.forced_eos(8, [2]),
        ours.encoder_no_repeat_ngram(2),
    ]
    made += [
        ours.top_k(2),
        ours.encoder_repetition_penalty(1.2),
        ours.remove_invalid_values(),
        ours.sequence_bias({(3,): 1.0}),
    ]
    kinds = {type(one): jax.tree.structure(one) for one in made}
    assert len(kinds) == 16
    assert all(a != b for a in kinds.values() for b in kinds.values() if a is not b)


EVERY = chain(*(one for name, (one, _) in PAIRS.items() if name != "renormalize"))


@FIXED
@given(
    st.integers(1, 20), st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(["plain", "ties", "impossible"])
)
def test_columns_that_are_not_real_and_other_rows_do_not_matter(length, seed, other, kind):
    tokens, scores = random_tokens(3, length, seed), random_scores(3, seed, kind)
    got = np.asarray(run(EVERY, scores, seen_of(tokens, 1, junk=seed)))
    np.testing.assert_array_equal(got, run(EVERY, scores, seen_of(tokens, 1, junk=other)))
    order = np.random.default_rng(other).permutation(3)
    np.testing.assert_array_equal(got[order], run(EVERY, scores[order], seen_of(tokens[order], 1, junk=other)))


@FIXED
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), SEEDS)
def test_a_smaller_share_keeps_fewer_tokens_and_always_one(low, high, seed):
    scores, seen = random_scores(2, seed, "ties"), seen_of(random_tokens(2, 4), 2)
    low, high = sorted((low, high))
    for make in (ours.top_p, ours.top_h, lambda share: ours.min_p(1 - share)):
        few, many = (np.isfinite(run(make(share), scores, seen)) for share in (low, high))
        assert np.all(many | ~few)
        assert few[np.arange(2), scores.argmax(1)].all()


def test_a_chain_runs_in_a_while_loop_and_its_numbers_do_not_recompile():
    traces = []

    @jax.jit
    def write(transform, seen):
        traces.append(1)

        def step(seen):
            scores = transform(jnp.sin(jnp.arange(74.0).reshape(2, 37)), seen)
            token = jnp.argmax(scores, -1).astype(jnp.int32)
            return seen.replace(
                tokens=jax.lax.dynamic_update_slice(seen.tokens, token[:, None], (0, seen.end)), end=seen.end + 1
            )

        return jax.lax.while_loop(lambda seen: seen.new < 9, step, seen)

    seen = seen_of(np.array([[1, 2], [3, 4]]), 2)
    for penalty in (1.5, 3.0):
        out = write(chain(ours.repetition_penalty(penalty), ours.no_repeat_ngram(1), ours.min_new_tokens(3, 8)), seen)
        written = np.asarray(out.tokens[:, 3:14])
        assert all(len(set(row)) == 11 for row in written.tolist())  # no token twice
    assert len(traces) == 1
