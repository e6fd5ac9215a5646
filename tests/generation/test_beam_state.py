"""The books of a beam search, step by step against the functions that transformers has for them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import GenerationMixin

from jaxformers.generation.beam_state import (
    BeamRules,
    Beams,
    Hypotheses,
    drawn,
    extended,
    first_numbers,
    likeliest,
    settled,
)

BATCH, WIDTH, LENGTH, WORDS, PROMPT = 5, 3, 9, 11, 2
KEEP = 2 * WIDTH


def rules(stopping: bool | str, penalty: float) -> BeamRules:
    """The numbers of one search."""
    hopes = stopping == "never" and penalty > 0
    lengths = np.maximum(np.arange(LENGTH + 1.0), 1)
    numbers = dict(fill=0, pad=0, rows=BATCH, limit=LENGTH, pause=LENGTH, hope=(LENGTH - PROMPT) * hopes)
    return BeamRules(
        eos=jnp.array([4]),
        penalties=jnp.asarray(lengths**penalty, jnp.float32),
        content=jnp.asarray(stopping is True),
        **{name: jnp.asarray(value) for name, value in numbers.items()},
    )


def random_beams(rng: np.random.RandomState, column: int) -> Beams:
    """Books in the middle of a search."""

    def texts(scores: np.ndarray) -> Hypotheses:
        tokens = rng.randint(5, WORDS, (BATCH, WIDTH, LENGTH))
        origins = np.where(np.arange(LENGTH) < PROMPT, -1, rng.randint(0, BATCH * WIDTH, tokens.shape))
        origins = np.where(np.arange(LENGTH) < column, origins, -1)
        return Hypotheses(*(jnp.asarray(x) for x in (tokens, scores.astype(np.float32), origins)))

    complete = np.sort(rng.rand(BATCH, WIDTH) < 0.6, axis=1)[:, ::-1]
    running = -np.sort(rng.rand(BATCH, WIDTH) * 4, axis=1)
    finished = np.where(complete, -np.sort(rng.rand(BATCH, WIDTH), axis=1), -1e9)
    alive = (rng.rand(BATCH) < 0.7) | ~complete.all(axis=1)
    return Beams(texts(running), texts(finished), jnp.asarray(complete.copy()), jnp.asarray(alive), jnp.asarray(False))


def theirs(beams: Beams, scores: np.ndarray, column: int, stopping: Any, penalty: float) -> dict[str, np.ndarray]:
    """One step with transformers' functions."""
    t = jax.tree.map(lambda x: torch.tensor(np.array(x)), beams)
    cut = slice(PROMPT, None)
    found_scores, found, origins = GenerationMixin._get_top_k_continuations(
        GenerationMixin,
        accumulated_log_probs=torch.tensor(scores.reshape(BATCH, -1)),
        running_sequences=t.running.tokens,
        running_beam_indices=t.running.origins[:, :, cut],
        cur_len=column,
        decoder_prompt_len=PROMPT,
        do_sample=False,
        beams_to_keep=KEEP,
        num_beams=WIDTH,
        batch_size=BATCH,
    )
    ended = (found[:, :, column] == 4) | torch.tensor(column + 1 >= LENGTH)
    tokens, running_scores, running_origins = GenerationMixin._get_running_beams_for_next_iteration(
        GenerationMixin, found_scores, found, origins, ended, WIDTH
    )
    finished, finished_scores, finished_origins, complete = GenerationMixin._update_finished_beams(
        GenerationMixin,
        sequences=t.finished.tokens,
        topk_running_sequences=found,
        beam_scores=t.finished.scores,
        topk_log_probs=found_scores,
        beam_indices=t.finished.origins[:, :, cut],
        topk_running_beam_indices=origins,
        is_early_stop_heuristic_unsatisfied=t.open[:, None],
        is_sent_finished=t.complete,
        next_token_hits_stopping_criteria=ended,
        top_num_beam_mask=torch.arange(KEEP) < WIDTH,
        num_beams=WIDTH,
        cur_len=column,
        decoder_prompt_len=PROMPT,
        length_penalty=penalty,
        early_stopping=stopping,
    )
    still = GenerationMixin._check_early_stop_heuristic(
        t.open[:, None], running_scores, finished_scores, complete, column + 1, LENGTH, PROMPT, stopping, penalty
    )
    goes_on = GenerationMixin._beam_search_has_unfinished_sequences(still, complete, ended, stopping)
    return {
        "tokens": tokens, "scores": running_scores, "origins": running_origins, "finished": finished,
        "finished scores": finished_scores, "finished origins": finished_origins, "complete": complete,
        "open": still[:, 0], "over": ~goes_on,
    }  # fmt: skip


@pytest.mark.parametrize("stopping", [True, False, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -1.0, 2.0])
def test_one_step(stopping: bool | str, penalty: float) -> None:
    rng, numbers = np.random.RandomState(0), rules(stopping, penalty)
    for column in [4, 6, LENGTH - 1]:
        beams = random_beams(rng, column)
        new = rng.randn(BATCH, WIDTH, WORDS).astype(np.float32)
        scores = jnp.asarray(new) + beams.running.scores[:, :, None]
        places = likeliest(scores.reshape(BATCH, -1), KEEP)
        found = extended(beams.running, scores, places, jnp.asarray(column), first_numbers(BATCH, WIDTH))
        ended = (found.tokens[:, :, column] == 4) | (column + 1 >= LENGTH)
        got = settled(beams, found, ended, jnp.asarray(column + 1 - PROMPT), numbers)
        want = theirs(beams, np.asarray(scores), column, stopping, penalty)
        real = np.asarray(got.complete)
        np.testing.assert_array_equal(real, want["complete"])
        ours = {"finished": got.finished.tokens, "finished scores": got.finished.scores}
        ours["finished origins"] = got.finished.origins[:, :, PROMPT:]
        for name, value in ours.items():  # the order of what is not there yet means nothing
            np.testing.assert_allclose(np.asarray(value)[real], want[name].numpy()[real], rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(got.open, want["open"])
        assert bool(got.over) == bool(want["over"])
        if column + 1 < LENGTH:
            np.testing.assert_array_equal(got.running.tokens, want["tokens"])
            np.testing.assert_array_equal(got.running.origins[:, :, PROMPT:], want["origins"])
            np.testing.assert_allclose(got.running.scores, want["scores"], rtol=1e-6)


def test_draws_are_without_replacement() -> None:
    """The first of two drawn places has the probabilities of softmax, the second those of what is left (chi-square)."""
    p = np.array([0.5, 0.3, 0.15, 0.05])
    keys = jax.random.split(jax.random.key(0), 4000)
    scores = jnp.log(jnp.asarray(p))[None]
    pairs = np.asarray(jax.vmap(lambda key: drawn(scores, 2, key)[0])(keys))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    counts = np.zeros((4, 4))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    expected = 4000 * p[:, None] * p[None] / (1 - p[:, None])
    np.fill_diagonal(expected, 0.0)
    apart = ~np.eye(4, dtype=bool)
    chi = ((counts - expected)[apart] ** 2 / expected[apart]).sum()
    assert chi < 31.3  # eleven degrees of freedom, one in a thousand
