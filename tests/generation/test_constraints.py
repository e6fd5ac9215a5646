"""Constraints as tables: how far texts are with them, and what they refuse."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxformers.core.errors import ConfigError
from jaxformers.generation.constraints import (
    DisjunctiveConstraint,
    PhrasalConstraint,
    Progress,
    Tables,
    advanced,
    bank,
    constraints_of,
    nothing_done,
    promised,
    pushes,
    tables_of,
)
from tests.generation.fixtures.weights import cases


@jax.jit
def followed(text: jax.Array, tables: Tables) -> tuple[jax.Array, ...]:
    """Of every beginning of a text [T]: completion, bank, tokens that help, and the banks that they lead to."""

    def look(progress: Progress, token: jax.Array) -> tuple[Progress, tuple[jax.Array, ...]]:
        push, worth = pushes(progress, tables)
        before = jax.tree.map(lambda x: x[None], progress)
        banks = promised(before, advanced(before, push, tables), worth, tables)
        return advanced(progress, token, tables), (progress.complete, bank(progress, tables), push, banks)

    return jax.lax.scan(look, nothing_done((), tables), text)[1]


def test_progress_of_random_texts() -> None:
    """Completion, banks, and the tokens that help with their banks are what transformers 4.55 computes."""
    for case in cases("constraint_progress"):
        tables = tables_of(constraints_of(None, case["words"]))
        found = followed(jnp.asarray([*case["text"], 0]), tables)
        for number, (step, complete, at, push, banks) in enumerate(zip(case["steps"], *found, strict=True)):
            where = f"{case['words']} after {case['text'][:number]}"
            assert bool(complete) == step["completed"], where
            assert int(at) == step["bank"], where
            pairs = zip(push.tolist(), banks.tolist(), strict=True)
            leads = {t: b for t, b in reversed(list(pairs)) if t >= 0}
            assert sorted(leads.items()) == [tuple(pair) for pair in step["pushed"]], where


def test_words_and_values() -> None:
    given = constraints_of([PhrasalConstraint([3])], [[4, 5], [[6], [7, 8]]])
    assert given == (PhrasalConstraint((3,)), PhrasalConstraint((4, 5)), DisjunctiveConstraint(((6,), (7, 8))))
    assert hash(given[0]) == hash(PhrasalConstraint([3]))


@pytest.mark.parametrize("make, match", [
    (lambda: PhrasalConstraint([]), "not empty"),
    (lambda: PhrasalConstraint([3, -1]), "token ids"),
    (lambda: PhrasalConstraint(5), "token ids"),
    (lambda: DisjunctiveConstraint([]), "list of lists"),
    (lambda: DisjunctiveConstraint([[5, 6], [5]]), "begins with"),
    (lambda: DisjunctiveConstraint([[5], [5]]), "twice"),
    (lambda: constraints_of([], None), "empty"),
    (lambda: constraints_of(None, [[5, "a"]]), "token ids"),
], ids=range(8))  # fmt: skip
def test_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
