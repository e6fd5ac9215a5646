"""Group and constrained beam search write what transformers 4.55 wrote: see fixtures/make.py."""

import json
from typing import Any

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.errors import ConfigError
from jaxformers.generation import transition_scores
from jaxformers.generation.constraints import DisjunctiveConstraint, PhrasalConstraint
from tests.generation.fixtures.weights import cases, write_checkpoint

MODELS = ["llama", "gpt2", "t5", "bart"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, jf.Model]:
    """The fixtures' models."""
    folder = tmp_path_factory.mktemp("fixtures")
    kinds = {name: jf.AutoModelForSeq2SeqLM if name in ("t5", "bart") else jf.AutoModelForCausalLM for name in MODELS}
    return {name: kind.from_pretrained(write_checkpoint(name, folder / name)) for name, kind in kinds.items()}


def generated(models: dict[str, jf.Model], case: dict[str, Any], **more: Any) -> Any:
    """What we write in a case."""
    inputs = {name: np.asarray(value) for name, value in case["inputs"].items()}
    return models[case["model"]].generate(**inputs, **case["options"], **more)


def same(models: dict[str, jf.Model], case: dict[str, Any], indices: bool) -> None:
    """Tokens are equal, and scores as far as the old books have them."""
    got = generated(models, case, return_dict_in_generate=True, output_scores=True)
    where = json.dumps({name: case[name] for name in ("model", "options")})
    np.testing.assert_array_equal(got.sequences, case["sequences"], err_msg=where)
    if "sequences_scores" in case:
        np.testing.assert_allclose(got.sequences_scores, case["sequences_scores"], rtol=2e-4, atol=1e-5, err_msg=where)
        second = np.asarray(got.scores[1]).max(axis=-1)  # later ones are of closed searches too
        np.testing.assert_allclose(second, case["second_scores"], rtol=2e-3, atol=2e-3, err_msg=where)
    if indices and case.get("beam_indices") is not None:
        new = got.beam_indices.shape[1]
        np.testing.assert_array_equal(got.beam_indices, np.asarray(case["beam_indices"])[:, :new], err_msg=where)


@pytest.mark.parametrize("model", ["llama", *(pytest.param(m, marks=pytest.mark.slow) for m in MODELS[1:])])
def test_groups(models, model: str) -> None:
    for case in cases("group_beam"):
        if case["model"] == model:
            same(models, case, indices=False)  # which the old books mixed up between groups


def test_scores_follow_from_beam_indices(models) -> None:
    """Of groups: the scores of the steps along a text's beams sum to its score."""
    case = next(c for c in cases("group_beam") if c["model"] == "llama")
    case = {**case, "options": {**case["options"], "eos_token_id": 9}}
    got = generated(models, case, return_dict_in_generate=True, output_scores=True)
    steps = np.asarray(transition_scores(got.sequences, got.scores, got.beam_indices))
    lengths = (np.asarray(got.beam_indices) >= 0).sum(axis=1)
    np.testing.assert_allclose(steps.sum(axis=1) / lengths, got.sequences_scores, rtol=1e-4)


CONSTRAINED = cases("constrained")
QUICK = (4, 9)  # choices that share beginnings, and an encoder-decoder


@pytest.mark.parametrize(
    "number", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in range(len(CONSTRAINED))]
)
def test_constraints(models, number: int) -> None:
    same(models, CONSTRAINED[number], indices=True)


def contains(text: list[int], word: list[int]) -> bool:
    """Whether the tokens of a word lie in a text in a row."""
    return any(text[n : n + len(word)] == list(word) for n in range(len(text)))


def test_constraints_are_kept(models) -> None:
    """As values they do what they do as words; what is asked for is written."""
    case = next(c for c in cases("constrained") if c["options"]["force_words_ids"] == [[[21, 22], [23]], [9, 10]])
    words = {**case, "options": {**case["options"], "max_new_tokens": 14}}
    options = {k: v for k, v in words["options"].items() if k != "force_words_ids"}
    values = [DisjunctiveConstraint([[21, 22], [23]]), PhrasalConstraint([9, 10])]
    got = np.asarray(generated(models, {**words, "options": options}, constraints=values))
    np.testing.assert_array_equal(got, generated(models, words))
    for text in got.tolist():
        assert contains(text, [9, 10]) and (contains(text, [21, 22]) or contains(text, [23]))


@pytest.mark.slow
def test_criteria_end_old_searches(models) -> None:
    """What still runs when the caller's criterion ends the search is returned."""
    for strategy, kind in (("group_beam", "llama"), ("constrained", "t5")):
        case = next(c for c in cases(strategy) if c["model"] == kind)
        case = {**case, "options": {**case["options"], "eos_token_id": None}}
        start = 1 if kind == "t5" else len(case["inputs"]["input_ids"][0])
        rule = lambda ids, scores, stop=start + 4: np.full(len(ids), ids.shape[1] >= stop)  # noqa: E731
        assert generated(models, case, stopping_criteria=[rule]).shape[1] == start + 4


@pytest.mark.parametrize("options, match", [
    (dict(num_beams=4, num_beam_groups=3, diversity_penalty=1.0), "expected a multiple"),
    (dict(num_beams=4, num_beam_groups=2), "diversity_penalty is 0.0"),
    (dict(num_beams=4, force_words_ids=[]), "force_words_ids"),
    (dict(num_beams=4, force_words_ids=[[]]), "not empty"),
    (dict(num_beams=4, force_words_ids=[[[5, 6], [5]]]), "begins with"),
    (dict(num_beams=4, constraints=["word"]), "expected a PhrasalConstraint"),
    (dict(num_beams=1, force_words_ids=[[5]]), "2 at least"),
    (dict(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, force_words_ids=[[5]]), "num_beam_groups"),
], ids=str)  # fmt: skip
def test_what_does_not_go_together(models, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        models["llama"].generate(np.ones((1, 4), np.int32), max_new_tokens=3, pad_token_id=0, **options)
